// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! [`Slab`]: what is in flight, by number.

/// Things by number; a number is used again after its thing was removed.
pub(super) struct Slab<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, thing: T) -> usize {
        let index = self.free.pop().unwrap_or(self.places.len());
        match self.places.get_mut(index) {
            Some(place) => *place = Some(thing),
            None => self.places.push(Some(thing)),
        }
        index
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.places.get_mut(index)?.as_mut()
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<T> {
        let thing = self.places.get_mut(index)?.take()?;
        self.free.push(index);
        Some(thing)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }
}
