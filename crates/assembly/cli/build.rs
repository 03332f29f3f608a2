//! Links the binary at a fixed address.
//!
//! A position-independent executable corrects nearly 50,000 addresses whenever it starts, and every
//! role is a process of its own: that took a third of the time until `main`, and 0.9 MB in each of
//! them that they would share otherwise. Libraries, heap and stacks still lie at random addresses.

#[expect(clippy::disallowed_methods, reason = "Cargo tells build scripts everything so")]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |of: &str| std::env::var(format!("CARGO_CFG_TARGET_{of}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
