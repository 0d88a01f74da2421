/* decompress.c: stdin to stdout; built once for zstd (-DZSTD) and once for xz, static, to travel inside an installer. */
#include <stdio.h>
#include <stdlib.h>
#ifdef ZSTD
#include <zstd.h>
#else
#include <lzma.h>
#endif

static unsigned char in[1 << 18], out[1 << 18];

static void fail(const char *text) { fprintf(stderr, "decompress: %s\n", text); exit(1); }

static void put(size_t size) { if (fwrite(out, 1, size, stdout) != size) fail("write error"); }

int main(void)
{
    size_t got;
#ifdef ZSTD
    ZSTD_DStream *stream = ZSTD_createDStream();
    size_t left = 1;
    while ((got = fread(in, 1, sizeof in, stdin)) > 0) {
        ZSTD_inBuffer input = { in, got, 0 };
        while (input.pos < input.size) {
            ZSTD_outBuffer output = { out, sizeof out, 0 };
            left = ZSTD_decompressStream(stream, &output, &input);
            if (ZSTD_isError(left)) fail("corrupt input");
            put(output.pos);
        }
    }
    if (left) fail("truncated input");
#else
    lzma_stream stream = LZMA_STREAM_INIT;
    lzma_ret result = lzma_stream_decoder(&stream, UINT64_MAX, LZMA_CONCATENATED);
    lzma_action action = LZMA_RUN;
    while (result == LZMA_OK) {
        if (stream.avail_in == 0 && action == LZMA_RUN) {
            got = fread(in, 1, sizeof in, stdin);
            stream.next_in = in;
            stream.avail_in = got;
            if (got == 0) action = LZMA_FINISH;
        }
        stream.next_out = out;
        stream.avail_out = sizeof out;
        result = lzma_code(&stream, action);
        put(sizeof out - stream.avail_out);
    }
    if (result != LZMA_STREAM_END) fail("corrupt input");
#endif
    return fflush(stdout) ? 1 : 0;
}
