//! A list of block ids in the order of their last use: O(1) at both ends and in the middle.

/// No block.
const NONE: u32 = u32::MAX;

/// A doubly linked list whose links live in one array, indexed by block id.
#[derive(Debug)]
pub(crate) struct LruList {
    /// Neighbours (older, newer) of each block; meaningless for blocks outside the list.
    links: Vec<(u32, u32)>,
    oldest: u32,
    newest: u32,
    len: usize,
}

impl LruList {
    /// An empty list for block ids below `num_blocks`.
    pub(crate) fn new(num_blocks: u32) -> Self {
        let links = vec![(NONE, NONE); num_blocks as usize];
        Self { links, oldest: NONE, newest: NONE, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Appends a block that is not in the list.
    pub(crate) fn push_newest(&mut self, block: u32) {
        self.links[block as usize] = (self.newest, NONE);
        match self.newest {
            NONE => self.oldest = block,
            newest => self.links[newest as usize].1 = block,
        }
        self.newest = block;
        self.len += 1;
    }

    /// Takes a block that is in the list out of it.
    pub(crate) fn remove(&mut self, block: u32) {
        let (older, newer) = self.links[block as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].1 = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].0 = older,
        }
        self.len -= 1;
    }

    /// Takes the oldest block out.
    pub(crate) fn pop_oldest(&mut self) -> Option<u32> {
        let block = self.oldest;
        (block != NONE).then(|| {
            self.remove(block);
            block
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(mut list: LruList) -> Vec<u32> {
        std::iter::from_fn(|| list.pop_oldest()).collect()
    }

    #[test]
    fn removal_keeps_the_order_of_the_rest() {
        for (removed, expected) in [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])] {
            let mut list = LruList::new(3);
            (0..3).for_each(|block| list.push_newest(block));
            list.remove(removed);
            assert_eq!(list.len(), 2);
            assert_eq!(drain(list), expected);
        }
    }

    #[test]
    fn an_emptied_list_can_be_filled_again() {
        let mut list = LruList::new(2);
        assert_eq!(list.pop_oldest(), None);
        list.push_newest(1);
        assert_eq!(list.pop_oldest(), Some(1));
        list.push_newest(1);
        list.push_newest(0);
        assert_eq!(drain(list), [1, 0]);
    }
}
