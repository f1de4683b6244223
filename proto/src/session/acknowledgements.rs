//! The order of acknowledgements: PUBACKs leave in the order of the QoS 1 publishes [MQTT-4.6.0-2], PUBRECs in that of
//! the QoS 2 publishes [MQTT-4.6.0-3], while outcomes come in any order.
//!
//! A lane numbers the publishes of one quality of service. The answer to the oldest unanswered one is written at
//! once; only an answer that came too early is kept.
//!
//! Invariants: the front of the kept answers is missing (else it would have left); there are never more of them than
//! publishes outstanding.

use std::collections::VecDeque;

use crate::codec::{PacketId, ReasonCode};

/// The answer to a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) packet_id: PacketId,
    pub(super) reason: ReasonCode,
    /// Reason string.
    pub(super) why: Option<&'static str>,
    /// The host holds the identifier of the QoS 2 publish, and has to release it.
    pub(super) recorded: bool,
}

/// The publishes of one quality of service that are not answered.
#[derive(Debug, Default)]
pub(super) struct Lane {
    issued: u32,
    answered: u32,
    early: Option<Box<Early>>,
}

/// Answers that came too early; the one at index `i` is for the publish numbered `answered + i`.
#[derive(Debug, Default)]
struct Early {
    answers: VecDeque<Option<Answer>>,
}

impl Lane {
    /// Publishes without an answer.
    pub(super) fn outstanding(&self) -> u32 {
        self.issued.wrapping_sub(self.answered)
    }

    /// Numbers a publish.
    pub(super) fn issue(&mut self) -> u32 {
        let sequence = self.issued;
        self.issued = self.issued.wrapping_add(1);
        sequence
    }

    /// Takes the answer to a publish, and gives it back if it may leave now; then [`Lane::next`] may have more.
    #[inline]
    pub(super) fn answer(&mut self, sequence: u32, answer: Answer) -> Option<Answer> {
        let index = sequence.wrapping_sub(self.answered);
        if index >= self.outstanding() {
            return None;
        }
        if index == 0 {
            self.advance();
            return Some(answer);
        }
        let answers = &mut self.early.get_or_insert_default().answers;
        let index = index as usize;
        if answers.len() <= index {
            answers.resize(index + 1, None);
        }
        answers[index].get_or_insert(answer);
        None
    }

    /// The next answer that may leave.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Answer> {
        let answer = (*self.early.as_ref()?.answers.front()?)?;
        self.advance();
        Some(answer)
    }

    fn advance(&mut self) {
        self.answered = self.answered.wrapping_add(1);
        if let Some(early) = &mut self.early {
            early.answers.pop_front();
        }
    }

    /// Gives back memory.
    pub(super) fn trim(&mut self) {
        if self.outstanding() == 0 {
            self.early = None;
        }
    }

    pub(super) fn check_invariants(&self) {
        let Some(early) = &self.early else { return };
        assert!(
            early.answers.len() <= self.outstanding() as usize,
            "an answer to no publish"
        );
        assert!(
            !matches!(early.answers.front(), Some(Some(_))),
            "an answer that may leave is kept"
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(number: u16) -> Answer {
        let packet_id = PacketId::new(number + 1).unwrap();
        Answer {
            packet_id,
            reason: ReasonCode::SUCCESS,
            why: None,
            recorded: true,
        }
    }

    #[test]
    fn usual_case_keeps_nothing() {
        let mut lane = Lane::default();
        for number in 0..1000 {
            let sequence = lane.issue();
            assert_eq!(lane.answer(sequence, answer(number)), Some(answer(number)));
            assert_eq!(lane.next(), None);
        }
        assert!(lane.early.is_none());
    }

    #[test]
    fn a_second_answer_changes_nothing() {
        let mut lane = Lane::default();
        let (first, second) = (lane.issue(), lane.issue());
        assert_eq!(lane.answer(second, answer(1)), None);
        assert_eq!(lane.answer(second, answer(7)), None);
        assert_eq!(lane.answer(first, answer(0)), Some(answer(0)));
        assert_eq!(lane.answer(first, answer(0)), None, "answered before");
        assert_eq!(lane.next(), Some(answer(1)));
        assert_eq!(lane.next(), None);
    }

    proptest! {
        /// Answers leave in the order of issue, whatever order they come in, across the wrap of the numbers.
        #[test]
        fn answers_leave_in_order(order in Just((0u16..40).collect::<Vec<_>>()).prop_shuffle(), start: u32) {
            let mut lane = Lane { issued: start, answered: start, early: None };
            let sequences: Vec<u32> = order.iter().map(|_| lane.issue()).collect();
            let mut left = Vec::new();
            for number in &order {
                let mut next = lane.answer(sequences[usize::from(*number)], answer(*number));
                while let Some(answer) = next {
                    left.push(answer.packet_id.get() - 1);
                    next = lane.next();
                }
                lane.check_invariants();
            }
            prop_assert_eq!(left, (0..40).collect::<Vec<u16>>());
            prop_assert_eq!(lane.outstanding(), 0);
        }
    }
}
