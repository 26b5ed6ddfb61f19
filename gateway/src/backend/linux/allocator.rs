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

#[cfg(test)]
mod tests {
    use std::{
        alloc::{GlobalAlloc, Layout, System},
        cell::Cell,
    };

    use crate::{
        metrics::{self, Format},
        sandbox::testing,
    };

    thread_local! {
        /// How often this thread has asked for memory.
        static ASKED: Cell<usize> = const { Cell::new(0) };
    }

    struct Counting;

    fn count() {
        // A thread that ends has none any more.
        let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
    }

    // SAFETY: every call goes on to `System` as it came, and counting asks for no memory: the
    // thread's cell is made without any and needs no end.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count();
            // SAFETY: as the caller has to see to.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: as the caller has to see to.
            unsafe { System.dealloc(pointer, layout) }
        }

        unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            count();
            // SAFETY: as the caller has to see to.
            unsafe { System.realloc(pointer, layout, size) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    #[tokio::test]
    async fn a_scrape_allocates_its_text_and_nothing_else_however_many_sandboxes_there_are() {
        let sizes = [("base".to_owned(), 1)].into();
        let pool = crate::sandbox::PoolRules { sizes, memory: 1 << 30 };
        let bed = testing::bed(crate::sandbox::Rules { pool, ..testing::rules() });
        let mut kept = Vec::new();
        for _ in 0..5 {
            kept.push(bed.sandboxes.create(testing::wanted(), None).await.unwrap());
        }
        bed.sandboxes.begin_sampling().await;
        bed.sandboxes.metrics().request_answered("/a", "GET", 200, std::time::Duration::ZERO);
        let asked = |format| {
            let before = ASKED.get();
            let text = metrics::tell(&bed.sandboxes, format);
            (ASKED.get() - before, text.len())
        };
        let (first, length) = asked(Format::Plain);
        assert!(first > 1 && length > 10_000, "{first} times for {length} bytes");
        for format in [Format::Plain, Format::OpenMetrics] {
            assert_eq!(asked(format).0, 1);
        }
    }
}
