//! The `nvstage` program.

fn main() {}
