//! Bounds of what clients answer: one answer, all answers to one send, and what one message between nodes carries of them.
//!
//! A client may send `limits.max_payload` as an answer. Redis cuts a subscriber whose queue passes 32 MB (its default
//! `client-output-buffer-limit` for pub/sub), so what is passed on to another node goes in pieces.

use crate::{connection::ConnectionId, gateway::message::Answer};

/// How many bytes of JSON all answers to one send may have together.
const TOTAL: usize = 16_000_000;

/// How many bytes of JSON one message between nodes carries, unless a single answer has more.
const PIECE: usize = 1_000_000;

/// What is left for the answers to one send.
#[derive(Debug)]
pub(crate) struct AckBudget {
    each: usize,
    left: usize,
}

impl AckBudget {
    /// A whole budget; one answer may have `each` bytes.
    pub(crate) fn new(each: usize) -> Self {
        Self { each, left: TOTAL }
    }

    /// Lets an answer pass, or leaves out its data. Returns whether it was cut here.
    pub(crate) fn admit(&mut self, answer: &mut Answer) -> bool {
        let Answer::Given(data) = answer else {
            return false;
        };
        let bytes = data.len();
        if bytes > self.each || bytes > self.left {
            *answer = Answer::TooLarge;
            return true;
        }
        self.left -= bytes;
        false
    }
}

/// Answers in the pieces in which they go to another node, in order; one, if there are none.
pub(crate) fn pieces(acks: Vec<(ConnectionId, Answer)>) -> Vec<Vec<(ConnectionId, Answer)>> {
    let mut pieces = vec![Vec::new()];
    let mut bytes = 0;
    for (id, answer) in acks {
        let data = match &answer {
            Answer::Given(data) => data.len(),
            Answer::TooLarge => 0,
        };
        // The id, and a few bytes around it.
        let weight = data + id.as_str().len() + 16;
        if bytes + weight > PIECE && bytes > 0 {
            pieces.push(Vec::new());
            bytes = 0;
        }
        bytes += weight;
        if let Some(piece) = pieces.last_mut() {
            piece.push((id, answer));
        }
    }
    pieces
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::gateway::peers::wire::{self, Receipt};

    fn given(bytes: usize) -> Answer {
        Answer::Given("x".repeat(bytes).into())
    }

    #[test]
    fn an_answer_beyond_the_limit_is_cut_and_the_next_one_passes() {
        let mut budget = AckBudget::new(10);
        let (mut fits, mut large, mut next) = (given(10), given(11), given(4));
        assert!(!budget.admit(&mut fits));
        assert!(budget.admit(&mut large));
        assert!(!budget.admit(&mut large), "cut once");
        assert!(!budget.admit(&mut next));
        assert_eq!((fits, large), (given(10), Answer::TooLarge));
    }

    #[test]
    fn all_answers_together_have_a_limit() {
        let mut budget = AckBudget::new(1_000_000);
        let cut = (0..20).filter(|_| budget.admit(&mut given(1_000_000)));
        assert_eq!(cut.count(), 4);
        assert!(!budget.admit(&mut Answer::TooLarge));
    }

    #[test]
    fn pieces_are_bounded_and_hold_everything_in_order() {
        let acks = |sizes: &[usize]| -> Vec<_> {
            let ids = (0..).map(|number: u32| ConnectionId::from(number.to_string()));
            ids.zip(sizes.iter().map(|size| given(*size))).collect()
        };
        assert_eq!(pieces(Vec::new()), [Vec::new()]);
        let all = acks(&[100_000; 34]);
        let parts = pieces(all.clone());
        assert_eq!(parts.len(), 4);
        assert_eq!(parts.concat(), all);
        for piece in &parts {
            let receipt = Receipt {
                acks: piece.clone(),
                ..Receipt::default()
            };
            assert!(wire::receipts(&[receipt]).len() <= 1_100_000);
        }
        assert_eq!(
            pieces(acks(&[2, 3_000_000, 2])).len(),
            3,
            "a large one goes alone"
        );
    }
}
