//! OpenPGP data taken apart: armour removed, packets told from each other.
//!
//! Every packet is handed to the crate on its own, so that one that cannot be parsed spoils
//! neither its neighbours nor the certificate before it.

use std::io::Read;

use pgp::armor::{BlockType, Dearmor};
use pgp::packet::PacketHeader;
use pgp::types::{PacketLength, Tag};

/// One packet, with its header.
pub struct RawPacket<'a> {
    /// What it is.
    pub tag: Tag,
    /// All of it.
    pub bytes: &'a [u8],
}

/// The bytes inside the armour block that `text` begins with; `None` when it is damaged or of
/// another type.
pub fn dearmour(text: &str, expected: BlockType) -> Option<Vec<u8>> {
    let mut reader = Dearmor::new(text.as_bytes());
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).ok()?;
    (reader.typ == Some(expected)).then_some(bytes)
}

/// The packets in their order; `None` when they do not fill `bytes` exactly.
pub fn split(bytes: &[u8]) -> Option<Vec<RawPacket<'_>>> {
    let mut packets = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut body = rest;
        let header = PacketHeader::try_from_reader(&mut body).ok()?;
        // Other lengths are for data packets, which occur neither in keys nor in signatures.
        let PacketLength::Fixed(length) = header.packet_length() else { return None };
        let length = rest.len() - body.len() + usize::try_from(length).ok()?;
        let (packet, after) = rest.split_at_checked(length)?;
        packets.push(RawPacket { tag: header.tag(), bytes: packet });
        rest = after;
    }
    Some(packets)
}
