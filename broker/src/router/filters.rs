//! The filters of one session: most have one, some have thousands.

use std::sync::Arc;

use hashbrown::HashSet;
use smallvec::SmallVec;

/// Filters that are looked for one by one.
const FEW_MAX: usize = 16;

/// A set of topic filters.
#[derive(Debug)]
pub struct Filters(Inner);

#[derive(Debug)]
enum Inner {
    Few(SmallVec<[Arc<str>; 1]>),
    Many(Box<HashSet<Arc<str>, foldhash::fast::RandomState>>),
}

impl Default for Filters {
    fn default() -> Self {
        Self(Inner::Few(SmallVec::new()))
    }
}

impl Filters {
    /// Adds a filter; one that is known takes the place of its equal, so that the text is shared with whoever gave it
    /// last.
    pub fn insert(&mut self, filter: &Arc<str>) {
        if let Inner::Few(few) = &mut self.0 {
            if let Some(known) = few.iter_mut().find(|known| **known == *filter) {
                *known = filter.clone();
                return;
            }
            if few.len() < FEW_MAX {
                few.push(filter.clone());
                return;
            }
            self.0 = Inner::Many(Box::new(few.drain(..).collect()));
        }
        if let Inner::Many(many) = &mut self.0 {
            many.replace(filter.clone());
        }
    }

    /// Removes a filter.
    pub fn remove(&mut self, filter: &str) {
        match &mut self.0 {
            Inner::Few(few) => few.retain(|known| &**known != filter),
            Inner::Many(many) => {
                many.remove(filter);
                if many.len() <= FEW_MAX / 2 {
                    self.0 = Inner::Few(many.drain().collect());
                }
            }
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        match &self.0 {
            Inner::Few(few) => few.len(),
            Inner::Many(many) => many.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        let (few, many) = match &self.0 {
            Inner::Few(few) => (Some(few.iter()), None),
            Inner::Many(many) => (None, Some(many.iter())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn few_and_many_are_a_set() {
        let mut filters = Filters::default();
        let mut expected = BTreeSet::new();
        let check = |filters: &Filters, expected: &BTreeSet<Arc<str>>| {
            assert_eq!(filters.len(), expected.len());
            assert_eq!(&filters.iter().cloned().collect::<BTreeSet<_>>(), expected);
        };
        for number in 0..3 * FEW_MAX {
            let filter: Arc<str> = format!("f/{number}").into();
            filters.insert(&filter);
            filters.insert(&filter);
            expected.insert(filter);
            check(&filters, &expected);
        }
        for number in (0..3 * FEW_MAX).rev() {
            let filter = format!("f/{number}");
            filters.remove(&filter);
            filters.remove(&filter);
            expected.remove(filter.as_str());
            check(&filters, &expected);
        }
        assert!(filters.is_empty());
    }

    #[test]
    fn the_text_given_last_is_kept() {
        let mut filters = Filters::default();
        for _ in 0..2 {
            let text: Arc<str> = "a/b".into();
            filters.insert(&text);
            assert_eq!(Arc::strong_count(&text), 2);
        }
    }
}
