//! Asking for memory ahead of its use: where much is known, most of it is far away.

/// Its first line is read soon.
#[inline]
pub(crate) fn soon<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: nothing is read: the processor is told an address, and there is something at this one.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(what).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}
