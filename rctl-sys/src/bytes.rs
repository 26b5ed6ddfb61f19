//! Reading structures that the kernel wrote, by the offsets of [`crate::abi`].

use crate::options::until_nul;

/// One structure. All offsets are constants that fit its size, so that reading past its end is a
/// mistake in this crate; it reads as nothing rather than panic.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a>(pub(crate) &'a [u8]);

impl<'a> Record<'a> {
    fn array<const N: usize>(self, offset: usize) -> [u8; N] {
        let found = self.0.get(offset..).and_then(|rest| rest.first_chunk::<N>());
        found.copied().unwrap_or([0; N])
    }

    pub(crate) fn byte(self, offset: usize) -> u8 {
        let [byte] = self.array(offset);
        byte
    }

    pub(crate) fn i32(self, offset: usize) -> i32 {
        i32::from_ne_bytes(self.array(offset))
    }

    pub(crate) fn u32(self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.array(offset))
    }

    pub(crate) fn i64(self, offset: usize) -> i64 {
        i64::from_ne_bytes(self.array(offset))
    }

    pub(crate) fn u64(self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.array(offset))
    }

    /// A C string in a field of `size` bytes.
    pub(crate) fn text(self, offset: usize, size: usize) -> &'a [u8] {
        until_nul(self.0.get(offset..offset + size).unwrap_or_default())
    }
}
