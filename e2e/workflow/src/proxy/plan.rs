//! What is to go wrong, decided by a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It is not passed on: this status is the answer.
    Status(u16),
    /// The same with 429 and the wish to be asked again after so many seconds.
    Overload(u16),
    /// The connection breaks before it is passed on.
    Reset,
    /// It is passed on and carried out; the connection breaks instead of the answer.
    LostAnswer,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(f, "{code}"),
            Self::Overload(seconds) => write!(f, "429 for {seconds} s"),
            Self::Reset => f.write_str("reset"),
            Self::LostAnswer => f.write_str("answer lost"),
        }
    }
}

/// All kinds.
pub const KINDS: [Fault; 8] = [
    Fault::Overload(1),
    Fault::Status(500),
    Fault::Status(502),
    Fault::Status(503),
    Fault::Status(504),
    Fault::Reset,
    Fault::LostAnswer,
    Fault::LostAnswer,
];

/// Numbers that a seed determines (the generator is called `SplitMix64`).
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// Those of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one, below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// A mixture of all faults that lets every request through in the end.
///
/// The answers to the first creation and the first deletion of each kind of object are lost: these
/// are the requests that must not be carried out twice, or be taken for failed.
#[derive(Debug)]
pub struct Mixture {
    numbers: Numbers,
    deck: Vec<Fault>,
    changed: BTreeSet<(String, String)>,
    in_a_row: BTreeMap<(String, String), u32>,
    /// What was done, in order: method, path, fault.
    pub done: Vec<(String, String, Fault)>,
}

impl Mixture {
    /// One request fails so often in a row at most. The hook is patient, but tests are not.
    const IN_A_ROW: u32 = 2;

    /// The mixture of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            numbers: Numbers::new(seed),
            deck: Vec::new(),
            changed: BTreeSet::new(),
            in_a_row: BTreeMap::new(),
            done: Vec::new(),
        }
    }

    /// What happens to this request; `path` is without its query.
    pub fn fault(&mut self, method: &str, path: &str) -> Option<Fault> {
        let key = (method.to_owned(), path.to_owned());
        let fault = if matches!(method, "POST" | "DELETE")
            && self.changed.insert((method.to_owned(), kind(path)))
        {
            Some(Fault::LostAnswer)
        } else {
            let again = self.in_a_row.get(&key).copied().unwrap_or(0) < Self::IN_A_ROW;
            (again && self.numbers.below(2) == 0).then(|| self.deal())
        };
        match fault {
            Some(fault) => {
                *self.in_a_row.entry(key).or_insert(0) += 1;
                let (method, path) = (method.to_owned(), path.to_owned());
                self.done.push((method, path, fault));
            }
            None => {
                self.in_a_row.remove(&key);
            }
        }
        fault
    }

    /// The next of a shuffled deck, so that every kind comes before one comes again.
    fn deal(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck = KINDS.to_vec();
        }
        let bound = self.deck.len() as u64;
        let at = usize::try_from(self.numbers.below(bound)).unwrap_or(0);
        self.deck.swap_remove(at)
    }
}

/// The plural in `/api/v1/namespaces/NAMESPACE/PLURAL/...`.
fn kind(path: &str) -> String {
    path.split('/').nth(5).unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: &str = "/api/v1/namespaces/ci/pods";

    fn faults(seed: u64) -> Vec<Option<Fault>> {
        let mut mixture = Mixture::new(seed);
        let pod = format!("{PODS}/x");
        (0..200).map(|_| mixture.fault("GET", &pod)).collect()
    }

    #[test]
    fn a_seed_determines_what_happens() {
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
    }

    #[test]
    fn every_kind_comes_and_no_request_fails_for_ever() {
        for seed in 0..50 {
            let faults = faults(seed);
            for kind in KINDS {
                assert!(faults.contains(&Some(kind)), "{kind}, seed {seed}");
            }
            let row = faults.windows(3).any(|row| row.iter().all(Option::is_some));
            assert!(!row, "seed {seed}");
        }
    }

    #[test]
    fn answers_to_the_first_creation_and_deletion_of_a_kind_are_lost() {
        let mut mixture = Mixture::new(1);
        assert_eq!(mixture.fault("POST", PODS), Some(Fault::LostAnswer));
        let secrets = PODS.replace("pods", "secrets");
        assert_eq!(mixture.fault("POST", &secrets), Some(Fault::LostAnswer));
        let pod = format!("{PODS}/x");
        assert_eq!(mixture.fault("DELETE", &pod), Some(Fault::LostAnswer));
        assert_eq!(mixture.done.len(), 3);
    }
}
