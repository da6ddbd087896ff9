//! A new migration must reach the binary: the macro that embeds them does not tell cargo of new files.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
