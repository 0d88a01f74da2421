//! Installer files of NVIDIA's form, made in a test: header, a stand-in for the embedded
//! decompressor, and a compressed tar archive.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a test ends where it is surprised"
)]

use std::io::Write;

/// How the archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// gzip, as until 313.
    Gzip,
    /// xz, as from 319 on.
    Xz,
    /// Zstandard, as from 530 on.
    Zstd,
}

/// An installer file in the making.
pub struct RunFile {
    version: String,
    archive: tar::Builder<Vec<u8>>,
    manifest: String,
}

impl RunFile {
    /// One of that version, with `nvidia-installer` and nothing else yet.
    pub fn new(version: &str) -> Self {
        let manifest = format!(
            "NVIDIA Accelerated Graphics Driver for Linux-x86_64\n{version}\n0\n\
             nvidia nvidia-uvm\n-\n-\n-\n-\n\
             nvidia-installer 0755 INSTALLER_BINARY MODULE:installer\n"
        );
        let new =
            Self { version: version.to_owned(), archive: tar::Builder::new(Vec::new()), manifest };
        new.member("./", (tar::EntryType::Directory, 0o700), b"").member(
            "./nvidia-installer",
            (tar::EntryType::Regular, 0o4750),
            b"#!/bin/sh\n",
        )
    }

    /// Adds a library with its line in the list of files.
    pub fn library(mut self, name: &str, content: &[u8]) -> Self {
        self.manifest += &format!("{name} 0755 CUDA_LIB NATIVE / MODULE:gpgpu\n");
        self.member(&format!("./{name}"), (tar::EntryType::Regular, 0o644), content)
    }

    /// Adds any member of a type and mode, its name exactly as given.
    pub fn member(mut self, name: &str, kind: (tar::EntryType, u32), content: &[u8]) -> Self {
        let mut header = Self::header(name, kind.0, kind.1);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.archive.append(&header, content).unwrap();
        self
    }

    /// Adds a symbolic or hard link, both names exactly as given.
    pub fn link(mut self, name: &str, kind: tar::EntryType, target: &str) -> Self {
        let mut header = Self::header(name, kind, 0o777);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_size(0);
        header.set_cksum();
        self.archive.append(&header, &b""[..]).unwrap();
        self
    }

    fn header(name: &str, kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        // Not `set_path`: it refuses what hostile archives contain.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(4_000_000);
        header.set_gid(100_500);
        header
    }

    /// The archive alone, compressed.
    fn payload(self, packing: Packing) -> Vec<u8> {
        let manifest = self.manifest.clone();
        let done =
            self.member("./.manifest", (tar::EntryType::Regular, 0o644), manifest.as_bytes());
        let archive = done.archive.into_inner().unwrap();
        match packing {
            Packing::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&archive).unwrap();
                encoder.finish().unwrap()
            }
            Packing::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
                encoder.write_all(&archive).unwrap();
                encoder.finish().unwrap()
            }
            Packing::Zstd => {
                let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
                encoder.include_checksum(true).unwrap();
                encoder.write_all(&archive).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    /// The whole file.
    pub fn build(self, packing: Packing) -> Vec<u8> {
        let version = self.version.clone();
        let payload = self.payload(packing);
        // The decompressor is a program with line ends in odd places and no text at all.
        let decompressor = b"\x7fELF\x02\n\n\0\xff\nend of program\n";
        let mut lines = vec![
            "#! /bin/sh".to_owned(),
            "CRCsum=1".to_owned(),
            "MD5=00000000000000000000000000000000".to_owned(),
            "skip=SKIP".to_owned(),
            "skip_decompress=20".to_owned(),
            "size_decompress=4".to_owned(),
            format!("label=\"NVIDIA Accelerated Graphics Driver for Linux-x86_64 {version}\""),
            format!("version_string={version}"),
            "pkg_version=1".to_owned(),
            "script=./nvidia-installer".to_owned(),
            format!("targetdir=NVIDIA-Linux-x86_64-{version}"),
            "scriptargs=\"\"".to_owned(),
            "keep=n".to_owned(),
            "TARGET_OS=\"Linux\"".to_owned(),
            "TARGET_ARCH=\"x86_64\"".to_owned(),
            "# Generated by Makeself 1.6.0-nv9".to_owned(),
        ];
        lines.extend((0..980).map(|number| format!("# line {number} of the script")));
        lines.push("exit 0".to_owned());
        let inside = decompressor.iter().filter(|byte| **byte == b'\n').count();
        let skip = lines.len() + inside + 1;
        let mut file = (lines.join("\n") + "\n").replace("SKIP", &skip.to_string()).into_bytes();
        file.extend_from_slice(decompressor);
        file.extend_from_slice(&payload);
        file
    }
}
