//! What the C library's allocator keeps for itself.

#![allow(unsafe_code)]

/// Gives the pages that hold nothing back to the kernel; takes milliseconds where there are many.
pub fn return_memory() {
    // glibc does so by itself only at the end of a heap, and something small always lies there.
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
