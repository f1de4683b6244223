//! The generator behind every loss: deterministic by seed, or by a script.

use std::collections::VecDeque;

/// Small deterministic generator (splitmix64); not for secrets.
#[derive(Clone, Debug)]
pub struct SplitMix {
    state: u64,
    /// Choices that come before those of the generator.
    script: Option<VecDeque<u8>>,
}

impl SplitMix {
    /// A generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed,
            script: None,
        }
    }

    /// A generator whose choices are those of `script`, as few bytes for each as it takes: what a fuzzer steers. Behind
    /// its end come those of a fixed seed.
    pub fn scripted(script: &[u8]) -> Self {
        Self {
            state: 0,
            script: Some(script.iter().copied().collect()),
        }
    }

    /// Whether there was a script and it has come to its end: time to finish.
    pub fn is_spent(&self) -> bool {
        self.script.as_ref().is_some_and(VecDeque::is_empty)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        match self.take_scripted(8) {
            Some(number) => number,
            None => self.generate(),
        }
    }

    /// A number below `bound`, 0 where the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        let bytes = (u64::BITS - (bound - 1).leading_zeros()).div_ceil(8);
        let number = match self.take_scripted(bytes) {
            Some(number) => number,
            None => self.generate(),
        };
        number % bound
    }

    /// True in one of `out_of` cases.
    pub fn one_in(&mut self, out_of: u64) -> bool {
        self.below(out_of) == 0
    }

    fn take_scripted(&mut self, bytes: u32) -> Option<u64> {
        let script = self.script.as_mut().filter(|script| !script.is_empty())?;
        let taken = script.drain(..script.len().min(bytes as usize));
        Some(taken.fold(0, |number, byte| number << 8 | u64::from(byte)))
    }

    fn generate(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_comes_first_and_takes_as_few_bytes_as_it_can() {
        let mut random = SplitMix::scripted(&[7, 255, 1, 2, 9]);
        assert_eq!(random.below(1), 0, "no choice takes no byte");
        assert_eq!(random.below(256), 7);
        assert_eq!(random.below(10), 5);
        assert_eq!(random.below(257), 258 % 257);
        assert!(!random.is_spent());
        assert_eq!(random.next_u64(), 9, "what is left of it");
        assert!(random.is_spent());
        assert_eq!(random.next_u64(), SplitMix::new(0).next_u64());
        assert!(!SplitMix::new(0).is_spent());
    }
}
