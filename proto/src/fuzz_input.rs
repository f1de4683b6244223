//! Choices of a fuzzed run, taken from its bytes one after the other; when they run out, every choice is the first.

/// The bytes of a run.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else {
            return 0;
        };
        self.rest = rest;
        *first
    }

    /// Once in a while.
    pub(crate) fn rarely(&mut self) -> bool {
        self.byte() < 4
    }

    /// One of `0..count`.
    pub(crate) fn below(&mut self, count: u8) -> u8 {
        self.byte() % count
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    pub(crate) fn pick<T: Copy>(&mut self, options: &[T]) -> T {
        options[usize::from(self.byte()) % options.len()]
    }

    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        head
    }
}

/// Cases of a property test: the usual number, times `QUORATE_CASES_FACTOR` where it is set.
#[cfg(test)]
pub(crate) fn cases(usual: u32) -> u32 {
    let factor = std::env::var("QUORATE_CASES_FACTOR").ok();
    usual
        * factor.map_or(1, |factor| {
            factor.parse().expect("QUORATE_CASES_FACTOR is a number")
        })
}
