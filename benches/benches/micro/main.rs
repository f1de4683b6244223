//! Micro benchmarks of the parts every message passes: what one operation costs, alone and without a network.
//!
//! `cargo bench -p quorate-benches --bench micro` prints times; an argument picks benchmarks by name. The allocator is
//! the broker's, which comes with its crate. Operations that come in thousands (filling a trie) are measured together and shown as a rate.

mod codec;
mod router;
mod session;
mod trie;

/// Operations timed together: one alone takes no longer than reading the clock.
const SAMPLE: u32 = 1000;

fn main() {
    let is_given = |flag: &str| std::env::args().any(|argument| argument == flag);
    // Before anything else, so that the memory is the trie's; not when benchmarks are only listed or tried out.
    if is_given("--bench") && !is_given("--list") {
        trie::print_memory();
    }
    divan::main();
}
