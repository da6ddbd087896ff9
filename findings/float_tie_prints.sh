#!/bin/sh
# Rust's standard library and ECMAScript print different shortest texts for a double that lies half-way between two of them.
#
# Seen with rustc 1.95.0, serde_json 1.0.150 (which prints with zmij 1.0.23), ryu-js 1.0.3, Node.js 20.20.2 and Python 3.11.7:
#   71662156745217.125 is a double. 71662156745217.12 and 71662156745217.13 have as few digits as can be, are equally near, and both
#   are read as that double. ECMA-262 (Number::toString, note 2), which RFC 8785 asks for, takes the even one, and so do Python,
#   ryu-js and serde_json. `{}` and `{:e}` of Rust's standard library take the greater.
# About one random double in 4,000 is such a one. So a canonical JSON, a signature or an idempotency key made from `format!("{x}")`
# is not that of any other implementation, and a reader that takes only the shortest print for exact refuses the other's.
set -eu

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src"
cat >"$dir/Cargo.toml" <<'TOML'
[package]
name = "float-tie-prints"
version = "0.0.0"
edition = "2021"

[dependencies]
ryu-js = "=1.0.3"
serde_json = "=1.0.150"
zmij = "=1.0.23"
TOML
cat >"$dir/src/main.rs" <<'RUST'
fn main() {
    let double = 71_662_156_745_217.125_f64;
    println!("std {double}");
    println!("std-exponent {double:e}");
    println!("serde_json {}", serde_json::to_string(&double).unwrap());
    println!("ryu-js {}", ryu_js::Buffer::new().format(double));
    for text in ["71662156745217.12", "71662156745217.13"] {
        println!("read {text} {}", text.parse::<f64>().unwrap() == double);
    }
}
RUST
seen=$(cargo run --quiet --manifest-path "$dir/Cargo.toml")
if command -v node >/dev/null; then
    seen="$seen
node $(node -e 'console.log(String(71662156745217.125))')"
fi
if command -v python3 >/dev/null; then
    seen="$seen
python $(python3 -c 'print(71662156745217.125)')"
fi
printf '%s\n' "$seen"

expect() {
    printf '%s\n' "$seen" | grep -qxF "$1" || {
        echo "no longer so: $1" >&2
        exit 1
    }
}
expect 'std 71662156745217.13'
expect 'std-exponent 7.166215674521713e13'
expect 'serde_json 71662156745217.12'
expect 'ryu-js 71662156745217.12'
expect 'read 71662156745217.12 true'
expect 'read 71662156745217.13 true'
if command -v node >/dev/null; then expect 'node 71662156745217.12'; fi
if command -v python3 >/dev/null; then expect 'python 71662156745217.12'; fi
