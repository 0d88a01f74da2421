//! Keys and signed texts of `tests/openpgp`, whole, damaged and recombined.

use pgp::armor::{self, BlockType};
use pgp::composed::SignedPublicKey;
use pgp::crypto::hash::HashAlgorithm;
use pgp::crypto::public_key::PublicKeyAlgorithm;
use pgp::packet::{PacketHeader, PacketTrait, Signature, SignatureType, Subpacket, SubpacketType};
use pgp::types::{KeyDetails, Mpi, SignatureBytes, Tag, Timestamp};

use super::cleartext::Frame;
use super::*;
use crate::fingerprint::Fingerprint;

const TEXT: &str = "Origin: Test\nLabel: nvstage\nDescription: dashes follow\n-dash\n- item\n\
                    SHA256:\n 0123 5 Packages\n";
const END: &str = "-----END PGP SIGNATURE-----\n";

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../tests/openpgp/", $name))
    };
}

fn key(file: &str) -> Certificate {
    let mut found = certificates(file.as_bytes()).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn check(text: &str, keys: &[&str]) -> crate::error::Result<SignedText> {
    let keys: Vec<Certificate> = keys.iter().map(|file| key(file)).collect();
    verify_clearsigned(text.as_bytes(), &keys)
}

fn binding(text: &str, key: &str) -> Binding {
    check(text, &[key]).unwrap().binding
}

/// The headline, without the beginning that all share.
fn refusal(text: &str, keys: &[&str]) -> String {
    let error = check(text, keys).unwrap_err();
    assert_eq!(error.code(), crate::error::ExitCode::Install);
    error.what().strip_prefix("trust the release file: ").unwrap().to_owned()
}

fn changed(file: &str, change: impl FnOnce(&mut SignedPublicKey)) -> String {
    let mut key = key(file).key().clone();
    change(&mut key);
    key.to_armored_string(Default::default()).unwrap()
}

fn armour(bytes: Vec<u8>, kind: BlockType) -> String {
    struct Raw(Vec<u8>);
    impl pgp::ser::Serialize for Raw {
        fn to_writer<W: std::io::Write>(&self, writer: &mut W) -> pgp::errors::Result<()> {
            Ok(writer.write_all(&self.0)?)
        }
        fn write_len(&self) -> usize {
            self.0.len()
        }
    }
    let mut text = Vec::new();
    armor::write(&Raw(bytes), kind, &mut text, None, true).unwrap();
    String::from_utf8(text).unwrap()
}

fn signature_packets(text: &str) -> Vec<u8> {
    let frame = Frame::parse(text.as_bytes()).unwrap();
    packets::dearmour(&frame.signatures, BlockType::Signature).unwrap()
}

/// `text` with other bytes in its signature block.
fn with_signature(text: &str, bytes: Vec<u8>) -> String {
    let (signed, _) = text.split_once("-----BEGIN PGP SIGNATURE").unwrap();
    format!("{signed}{}", armour(bytes, BlockType::Signature))
}

fn packet(signature: &Signature) -> Vec<u8> {
    let mut packet = Vec::new();
    signature.to_writer_with_header(&mut packet).unwrap();
    packet
}

/// Removes what the first subkey says about its binding.
fn take_confirmation(key: &mut SignedPublicKey) -> Subpacket {
    let binding = &mut key.public_subkeys[0].signatures[0];
    let place = binding
        .config()
        .unwrap()
        .unhashed_subpackets()
        .position(|subpacket| subpacket.typ() == SubpacketType::EmbeddedSignature)
        .unwrap();
    binding.unhashed_subpacket_remove(place).unwrap()
}

fn fingerprint(file: &str) -> String {
    key(file).fingerprint().to_string()
}

#[test]
fn a_good_signature_yields_the_text_without_its_frame() {
    let keys = [fixture!("other.asc"), fixture!("sound.asc")];
    let signed = check(fixture!("sound.txt"), &keys).unwrap();
    assert_eq!(signed.text, TEXT);
    assert_eq!(&signed.fingerprint, key(fixture!("sound.asc")).fingerprint());
    assert_eq!(signed.binding, Binding::Sound);
}

#[test]
fn elliptic_curves_are_accepted() {
    assert_eq!(check(fixture!("other.txt"), &[fixture!("other.asc")]).unwrap().text, TEXT);
    assert_eq!(check(fixture!("nist.txt"), &[fixture!("nist.asc")]).unwrap().text, TEXT);
}

#[test]
fn a_binary_signature_over_the_canonical_text_is_accepted() {
    let signed = check(fixture!("binary.txt"), &[fixture!("sound.asc")]).unwrap();
    assert_eq!(signed.text, "Origin: Test\nLabel: nvstage\n");
}

#[test]
fn a_key_bound_with_sha1_is_accepted_and_told() {
    let (text, key) = (fixture!("sha1.txt"), fixture!("sha1.asc"));
    assert_eq!(binding(text, key), Binding::Sha1);
    assert_eq!(check(text, &[key]).unwrap().text, TEXT);
}

#[test]
fn one_sound_self_signature_beside_sha1_makes_the_binding_sound() {
    assert_eq!(binding(fixture!("sha1.txt"), fixture!("sha1-renewed.asc")), Binding::Sound);
    let renewed = key(fixture!("sha1-renewed.asc")).key().details.users[0].signatures.clone();
    let both = changed(fixture!("sha1.asc"), |key| key.details.users[0].signatures.extend(renewed));
    assert_eq!(binding(fixture!("sha1.txt"), &both), Binding::Sound);
}

#[test]
fn a_weak_hash_of_the_text_is_refused() {
    for (text, name) in [(fixture!("sound-sha1.txt"), "SHA1"), (fixture!("sound-md5.txt"), "MD5")] {
        let why = refusal(text, &[fixture!("sound.asc")]);
        assert!(why.ends_with(&format!(" uses the hash {name}, which is broken or too short")));
    }
}

#[test]
fn a_weak_key_is_refused() {
    let why = refusal(fixture!("weak.txt"), &[fixture!("weak.asc")]);
    assert!(why.ends_with(" is made with an RSA key of only 1024 bits"), "{why}");
    let why = refusal(fixture!("dsa.txt"), &[fixture!("dsa.asc")]);
    assert!(why.ends_with(" is made with a DSA key"), "{why}");
    let why = refusal(fixture!("subkey-weak.txt"), &[fixture!("subkey-weak.asc")]);
    assert!(why.ends_with(" is made with an RSA key of only 1024 bits"), "{why}");
}

#[test]
fn a_changed_text_does_not_fit() {
    let text = fixture!("sound.txt").replace("0123 5", "0124 5");
    let why = refusal(&text, &[fixture!("sound.asc")]);
    let key = fingerprint(fixture!("sound.asc"));
    let expected = format!("the signature by {key} does not fit the text");
    assert_eq!(why, format!("{expected}, which was changed after signing"));
    for (from, to) in
        [("\nSHA256:", "\n\nSHA256:"), ("\n 0123 5 Packages", ""), ("\n 0123", "\n0123")]
    {
        let text = fixture!("sound.txt").replace(from, to);
        assert!(refusal(&text, &[fixture!("sound.asc")]).starts_with(&expected), "{from:?}");
    }
}

#[test]
fn what_a_signature_does_not_cover_is_not_in_the_text() {
    let text =
        fixture!("sound.txt").replace("nvstage\n", "nvstage \t \n").replace("item\n", "item \n");
    assert_eq!(check(&text, &[fixture!("sound.asc")]).unwrap().text, TEXT);
}

#[test]
fn characters_on_which_programs_disagree_are_refused() {
    let sound = [fixture!("sound.asc")];
    let crlf = fixture!("sound.txt").replace('\n', "\r\n");
    assert_eq!(refusal(&crlf, &sound), "line 1 has a carriage return");
    let text = fixture!("sound.txt").replace("nvstage\n", "nvstage\r\n");
    assert_eq!(refusal(&text, &sound), "line 5 has a carriage return");
    let text = fixture!("sound.txt").replace("nvstage", "nv\u{c}stage");
    assert_eq!(refusal(&text, &sound), "line 5 has the control character U+000C");
    let text = fixture!("sound.txt").replace("nvstage", "nv\0stage");
    assert_eq!(refusal(&text, &sound), "line 5 has the control character U+0000");
    let bytes = fixture!("sound.txt").replace("nvstage", "\u{e4}").into_bytes();
    let latin = bytes.into_iter().filter(|byte| *byte != 0xc3).collect::<Vec<u8>>();
    let error = verify_clearsigned(&latin, &[key(sound[0])]).unwrap_err();
    assert_eq!(error.what(), "trust the release file: it is no UTF-8 text");
}

#[test]
fn text_around_the_signed_text_is_refused() {
    let (good, sound) = (fixture!("sound.txt"), [fixture!("sound.asc")]);
    let before = "there is text before the signed text";
    assert_eq!(refusal(&format!("Origin: Evil\n{good}"), &sound), before);
    assert_eq!(refusal(&format!("\n{good}"), &sound), before);
    assert_eq!(refusal(&format!("\u{feff}{good}"), &sound), "it is not signed");
    let after = "there is text after the signature";
    assert_eq!(refusal(&format!("{good}Origin: Evil\n"), &sound), after);
    assert_eq!(refusal(&format!("{good}\n Evil"), &sound), after);
    assert!(check(&format!("{good}\n \n"), &sound).is_ok());
    assert!(check(good.trim_end(), &sound).is_ok());
}

#[test]
fn a_second_block_is_refused() {
    let (good, sound) = (fixture!("sound.txt"), [fixture!("sound.asc")]);
    let why = refusal(&format!("{good}{good}"), &sound);
    assert_eq!(why, "another block begins on line 22, after the signature");
    let (signed, signature) = good.split_once("-----BEGIN PGP SIGNATURE").unwrap();
    let why = refusal(&format!("{signed}{good}"), &sound);
    assert_eq!(why, "a second signed text begins on line 11");
    let twice = format!("{good}-----BEGIN PGP SIGNATURE{signature}");
    assert_eq!(refusal(&twice, &sound), "another block begins on line 22, after the signature");
    let inside = good.replace(END, good);
    assert_eq!(refusal(&inside, &sound), "another block begins on line 21, in the signature");
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let (good, sound) = (fixture!("sound.txt"), [fixture!("sound.asc")]);
    let cut = |at: &str| refusal(good.split_once(at).unwrap().0, &sound);
    let hint = "; it is cut off or not complete yet";
    assert_eq!(refusal("", &sound), "it is empty");
    assert_eq!(cut("SIGNED MESSAGE"), format!("it ends inside its first line{hint}"));
    assert_eq!(cut("SHA256\n\n"), format!("it ends before the signed text begins{hint}"));
    let inside = format!("it ends inside the signed text, before any signature{hint}");
    assert_eq!(cut("Label"), inside);
    assert_eq!(cut("-----BEGIN PGP SIGNATURE"), inside);
    assert_eq!(cut("=zD7C"), format!("it ends inside the signature{hint}"));
    for length in 0..good.len() - 1 {
        assert!(check(&good[..length], &sound).is_err(), "{length}");
    }
}

#[test]
fn a_text_without_signature_is_refused() {
    assert_eq!(refusal(TEXT, &[fixture!("sound.asc")]), "it is not signed");
    let empty = with_signature(fixture!("sound.txt"), Vec::new());
    let why = refusal(&empty, &[fixture!("sound.asc")]);
    assert_eq!(why, "its signature block is empty");
}

#[test]
fn headers_that_change_what_is_signed_are_refused() {
    let text = fixture!("sound.txt").replace("Hash: SHA256", "Hash: SHA256\nNotDashEscaped: yes");
    assert_eq!(refusal(&text, &[fixture!("sound.asc")]), "its line 3 is no `Hash:` header");
    let text = fixture!("sound.txt").replace("Hash: SHA256\n", "");
    assert!(check(&text, &[fixture!("sound.asc")]).is_ok());
    let text = fixture!("sound.txt").replace("- -dash", "-dash");
    let why = refusal(&text, &[fixture!("sound.asc")]);
    assert_eq!(why, "line 7 begins with a dash that is not escaped");
}

#[test]
fn one_of_two_signatures_suffices() {
    let two = fixture!("two.txt");
    for key in [fixture!("sound.asc"), fixture!("other.asc")] {
        let signed = check(two, &[key]).unwrap();
        assert_eq!(signed.fingerprint.to_string(), fingerprint(key));
    }
    // The sounder key is named, whatever the order.
    let packets = [fixture!("sha1.txt"), fixture!("other.txt")].map(signature_packets).concat();
    let text = with_signature(two, packets);
    let signed = check(&text, &[fixture!("sha1.asc"), fixture!("other.asc")]).unwrap();
    assert_eq!(signed.fingerprint.to_string(), fingerprint(fixture!("other.asc")));
}

#[test]
fn a_weak_signature_beside_a_good_one_does_not_matter() {
    let packets =
        [fixture!("sound-sha1.txt"), fixture!("other.txt")].map(signature_packets).concat();
    let text = with_signature(fixture!("two.txt"), packets);
    let signed = check(&text, &[fixture!("sound.asc"), fixture!("other.asc")]).unwrap();
    assert_eq!(signed.fingerprint.to_string(), fingerprint(fixture!("other.asc")));
    assert!(refusal(&text, &[fixture!("sound.asc")]).contains("uses the hash SHA1"));
}

#[test]
fn a_signature_by_another_key_names_both() {
    let error = check(fixture!("two.txt"), &[fixture!("nist.asc")]).unwrap_err();
    assert_eq!(error.what(), "trust the release file: none of the pinned keys signed it");
    let [other, sound, nist] =
        [fixture!("other.asc"), fixture!("sound.asc"), fixture!("nist.asc")].map(fingerprint);
    let causes = [format!("signed by {other}, {sound}"), format!("pinned: {nist}")];
    assert_eq!(error.causes(), causes);
    assert_eq!(check(fixture!("two.txt"), &[]).unwrap_err().causes()[1], "pinned: none");
}

#[test]
fn a_signature_of_an_unknown_version_is_none() {
    let mut packets = signature_packets(fixture!("sound.txt"));
    assert_eq!(packets[..4], [0x89, 0x01, 0x3f, 4], "the packet's header and version");
    packets[3] = 5;
    let text = with_signature(fixture!("sound.txt"), packets.clone());
    let error = check(&text, &[fixture!("sound.asc")]).unwrap_err();
    assert_eq!(error.causes()[0], "signed by a key it does not name");
    packets.extend(signature_packets(fixture!("other.txt")));
    let text = with_signature(fixture!("sound.txt"), packets);
    assert!(check(&text, &[fixture!("other.asc")]).is_ok());
}

#[test]
fn a_signature_of_an_old_version_is_refused() {
    let sound = key(fixture!("sound.asc"));
    let old = Signature::v3(
        PacketHeader::new_fixed(Tag::Signature, 0),
        SignatureType::Text,
        PublicKeyAlgorithm::RSA,
        HashAlgorithm::Sha256,
        Timestamp::from_secs(0),
        sound.key().legacy_key_id(),
        [0, 0],
        SignatureBytes::Mpis(vec![Mpi::from_slice(&[1])]),
    );
    let text = with_signature(fixture!("sound.txt"), packet(&old));
    let why = refusal(&text, &[fixture!("sound.asc")]);
    assert!(why.ends_with(" has version 3"), "{why}");
}

#[test]
fn a_signature_over_a_key_is_none_over_a_text() {
    let key = key(fixture!("sound.asc"));
    let own = packet(&key.key().details.users[0].signatures[0]);
    let why = refusal(&with_signature(fixture!("sound.txt"), own), &[fixture!("sound.asc")]);
    assert!(why.ends_with(" is none over a text"), "{why}");
}

#[test]
fn a_damaged_signature_block_is_refused() {
    let sound = [fixture!("sound.asc")];
    let mut packets = signature_packets(fixture!("sound.txt"));
    let cut = with_signature(fixture!("sound.txt"), packets[..packets.len() - 1].to_vec());
    assert_eq!(refusal(&cut, &sound), "its signature is damaged");
    let key = packets::dearmour(sound[0], BlockType::PublicKey).unwrap();
    let why = refusal(&with_signature(fixture!("sound.txt"), key), &sound);
    assert_eq!(why, "its signature block holds something else than signatures");
    packets[50] ^= 1;
    assert!(check(&with_signature(fixture!("sound.txt"), packets), &sound).is_err());
}

#[test]
fn a_subkey_signs_for_its_primary_key() {
    let signed = check(fixture!("subkey.txt"), &[fixture!("subkey.asc")]).unwrap();
    assert_eq!(signed.fingerprint.to_string(), fingerprint(fixture!("subkey.asc")));
    assert_eq!(signed.binding, Binding::Sound);
}

#[test]
fn a_subkey_bound_with_sha1_is_told() {
    let text = fixture!("subkey-sha1.txt");
    assert_eq!(binding(text, fixture!("subkey-sha1.asc")), Binding::Sha1);
    // The subkey's own side of the binding counts as well; GnuPG does not renew it.
    assert_eq!(binding(text, fixture!("subkey-sha1-renewed.asc")), Binding::Sha1);
}

#[test]
fn a_subkey_that_is_not_for_signing_is_refused() {
    let text = fixture!("subkey.txt");
    let expected = " is made with a subkey that is not for signing";
    assert!(refusal(text, &[fixture!("subkey-usage.asc")]).ends_with(expected));
    // The newest binding counts, whatever its place.
    let old = key(fixture!("subkey.asc")).key().public_subkeys[0].signatures.clone();
    let both = changed(fixture!("subkey-usage.asc"), |key| {
        key.public_subkeys[0].signatures.extend(old);
    });
    assert!(refusal(text, &[&both]).ends_with(expected));
}

#[test]
fn a_subkey_of_another_key_is_refused() {
    let subkey = key(fixture!("subkey.asc")).key().public_subkeys[0].clone();
    let taken = changed(fixture!("sound.asc"), |key| key.public_subkeys.push(subkey));
    let why = refusal(fixture!("subkey.txt"), &[&taken]);
    assert!(why.ends_with(" is made with a subkey that the pinned key does not bind"), "{why}");
}

#[test]
fn a_subkey_that_does_not_confirm_its_binding_is_refused() {
    let none = changed(fixture!("subkey.asc"), |key| {
        take_confirmation(key);
    });
    let foreign = changed(fixture!("subkey.asc"), |subkey| {
        let confirmation = take_confirmation(&mut key(fixture!("subkey-sha1.asc")).key().clone());
        take_confirmation(subkey);
        let binding = &mut subkey.public_subkeys[0].signatures[0];
        binding.unhashed_subpacket_push(confirmation).unwrap();
    });
    for key in [none, foreign] {
        let why = refusal(fixture!("subkey.txt"), &[&key]);
        assert!(why.ends_with(" is made with a subkey that does not confirm its binding"), "{why}");
    }
}

#[test]
fn a_revoked_key_is_refused() {
    let why = refusal(fixture!("revoked.txt"), &[fixture!("revoked.asc")]);
    assert!(why.ends_with(" is made with a revoked key"), "{why}");
    let why = refusal(fixture!("subkey.txt"), &[fixture!("subkey-revoked.asc")]);
    assert!(why.ends_with(" is made with a revoked subkey"), "{why}");
}

#[test]
fn a_revocation_by_another_key_does_not_count() {
    let foreign = key(fixture!("revoked.asc")).key().details.revocation_signatures.clone();
    let claimed = changed(fixture!("sound.asc"), |key| key.details.revocation_signatures = foreign);
    assert!(check(fixture!("sound.txt"), &[&claimed]).is_ok());
}

#[test]
fn a_revoked_user_id_binds_nothing() {
    let text = fixture!("uid-revoked.txt");
    assert_eq!(binding(text, fixture!("uid-revoked.asc")), Binding::Sound);
    let revoked_only = changed(fixture!("uid-revoked.asc"), |key| {
        key.details.users.truncate(1);
        assert_eq!(key.details.users[0].id.as_str(), Some("first@test"));
    });
    let why = refusal(text, &[&revoked_only]);
    assert!(why.ends_with(" is made with a key that has no valid self-signature"), "{why}");
}

#[test]
fn an_expired_key_still_vouches_for_what_it_signed() {
    assert_eq!(binding(fixture!("expired.txt"), fixture!("expired.asc")), Binding::Sound);
}

#[test]
fn a_keyring_yields_each_certificate_alone() {
    let files = [fixture!("sound.asc"), fixture!("subkey.asc"), fixture!("nist.asc")];
    let expected: Vec<String> = files.iter().map(|file| fingerprint(file)).collect();
    let binary: Vec<u8> = files
        .iter()
        .flat_map(|file| packets::dearmour(file, BlockType::PublicKey).unwrap())
        .collect();
    let one_block = armour(binary.clone(), BlockType::PublicKey);
    let concatenated = format!("# a comment\n{}", files.join("\nbetween\n"));
    for file in [binary, one_block.into_bytes(), concatenated.into_bytes()] {
        let found = certificates(&file).unwrap();
        let names: Vec<String> = found.iter().map(|one| one.fingerprint().to_string()).collect();
        assert_eq!(names, expected);
        assert!(verify_clearsigned(fixture!("subkey.txt").as_bytes(), &found).is_ok());
        for (certificate, file) in found.iter().zip(files) {
            let alone = certificate.armoured().unwrap();
            assert_eq!(alone, key(file).armoured().unwrap());
            assert_eq!(key(&alone).key(), certificate.key());
        }
    }
}

#[test]
fn what_gnupg_keeps_between_the_packets_is_left_out() {
    let binary = packets::dearmour(fixture!("subkey.asc"), BlockType::PublicKey).unwrap();
    let trust = &[0xb0, 2, 0, 0][..];
    let ring: Vec<&[u8]> =
        packets::split(&binary).unwrap().iter().flat_map(|packet| [packet.bytes, trust]).collect();
    let found = certificates(&ring.concat()).unwrap();
    assert_eq!(found[0].key(), key(fixture!("subkey.asc")).key());
}

#[test]
fn a_certificate_that_cannot_be_parsed_is_left_out() {
    let of = |file: &str| packets::dearmour(file, BlockType::PublicKey).unwrap();
    let mut unknown = of(fixture!("subkey.asc"));
    let version = unknown.iter().position(|byte| *byte == 4).unwrap();
    assert!(version < 4, "the version follows the header");
    unknown[version] = 9;
    let ring = [of(fixture!("sound.asc")), unknown.clone(), of(fixture!("nist.asc"))].concat();
    let found = certificates(&ring).unwrap();
    assert_eq!(found.len(), 2);
    // Nothing of it sticks to the certificate before it.
    assert_eq!(found[0].key(), key(fixture!("sound.asc")).key());
    assert!(certificates(&unknown).unwrap_err().causes()[0].contains("unknown version"));
}

#[test]
fn a_file_that_is_no_key_file_is_an_error() {
    let cause = |bytes: &[u8]| {
        let error = certificates(bytes).unwrap_err();
        assert_eq!(error.what(), "read the repository's key: it is no OpenPGP public key");
        error.causes()[0].clone()
    };
    let binary = packets::dearmour(fixture!("sound.asc"), BlockType::PublicKey).unwrap();
    assert_eq!(cause(b""), "it is empty");
    assert_eq!(cause(&binary[..binary.len() - 1]), "it is cut off");
    let headless = &binary[packets::split(&binary).unwrap()[0].bytes.len()..];
    assert_eq!(cause(headless), "it does not begin with a public key");
    let cut = &fixture!("sound.asc")[..200];
    assert_eq!(cause(cut.as_bytes()), "its armour is damaged or cut off");
    let none = "it has no line `-----BEGIN PGP PUBLIC KEY BLOCK-----`";
    assert_eq!(cause(b"<html>404</html>"), none);
    assert_eq!(cause(fixture!("sound.txt").as_bytes()), none);
}

#[test]
fn a_repository_key_is_the_pinned_one_and_alone() {
    let (sound, other) = (fixture!("sound.asc"), fixture!("other.asc"));
    let pinned = Fingerprint::parse(&fingerprint(sound)).unwrap();
    check_key(sound.as_bytes(), &pinned).unwrap();
    let binary = packets::dearmour(sound, BlockType::PublicKey).unwrap();
    check_key(&binary, &pinned).unwrap();
    let error = check_key(other.as_bytes(), &pinned).unwrap_err();
    let cause = format!("pinned {pinned}, found {}", fingerprint(other));
    assert_eq!(error.causes(), [cause]);
    for two in [format!("{sound}{other}"), format!("{other}{sound}")] {
        let error = check_key(two.as_bytes(), &pinned).unwrap_err();
        assert_eq!(error.causes(), ["it holds 2 keys"]);
        assert!(armoured(two.as_bytes()).is_err());
    }
    let alone = armoured(format!("Evil\n{sound}Evil\n").as_bytes()).unwrap();
    assert_eq!(alone, armoured(&binary).unwrap());
    assert!(alone.starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n"));
}
