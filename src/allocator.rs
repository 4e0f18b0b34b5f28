//! The memory allocator of the binary.
//!
//! A server makes and drops small objects from many threads all the time: placing pods takes it less than half the processor
//! time with mimalloc that it takes with libc's malloc. What lives for a moment, or exists once for each pod, wants small
//! memory instead and keeps to libc:
//! clients, the zygote, shims. A process decides once, by its arguments, at its first allocation.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU8, Ordering},
};

use mimalloc::MiMalloc;

const UNDECIDED: u8 = 0;
const PLAIN: u8 = 1;
const FAST: u8 = 2;

/// Arguments are looked at up to this length.
const LOOKED_AT: usize = 4096;

/// mimalloc in processes with one of these arguments, libc's malloc in others.
pub(crate) struct Allocator {
    commands: &'static [&'static str],
    mode: AtomicU8,
}

impl Allocator {
    /// mimalloc where one of the process's arguments is one of `commands`.
    pub(crate) const fn for_commands(commands: &'static [&'static str]) -> Self {
        Self { commands, mode: AtomicU8::new(UNDECIDED) }
    }

    #[inline]
    fn is_fast(&self) -> bool {
        match self.mode.load(Ordering::Relaxed) {
            UNDECIDED => self.decide(),
            mode => mode == FAST,
        }
    }

    /// Threads that come here at once decide alike: a process's arguments do not change.
    #[cold]
    fn decide(&self) -> bool {
        let mut arguments = [0; LOOKED_AT];
        let length = read_arguments(&mut arguments);
        let fast = names_one(&arguments[..length.min(LOOKED_AT)], self.commands);
        self.mode.store(if fast { FAST } else { PLAIN }, Ordering::Relaxed);
        fast
    }
}

/// Reads this process's arguments, each ended by a zero, without allocating; gives their length, 0 if there is no knowing.
fn read_arguments(into: &mut [u8]) -> usize {
    // SAFETY: the path ends with a zero, the buffer is as long as is said, and the descriptor is closed once.
    unsafe {
        let file = libc::open(c"/proc/self/cmdline".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return 0;
        }
        let length = libc::read(file, into.as_mut_ptr().cast(), into.len());
        libc::close(file);
        usize::try_from(length).unwrap_or(0)
    }
}

/// Whether one of the arguments after the program's name is one of the commands.
fn names_one(arguments: &[u8], commands: &[&str]) -> bool {
    let mut words = arguments.split(|byte| *byte == 0).skip(1);
    words.any(|word| commands.iter().any(|command| command.as_bytes() == word))
}

// SAFETY: a process uses one of the two allocators from its first allocation to its end, so that each block goes back to
// where it came from; both keep the contract.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's obligations are passed on.
        unsafe { if self.is_fast() { MiMalloc.alloc(layout) } else { System.alloc(layout) } }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe {
            if self.is_fast() { MiMalloc.dealloc(block, layout) } else { System.dealloc(block, layout) }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { if self.is_fast() { MiMalloc.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) } }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe {
            if self.is_fast() {
                MiMalloc.realloc(block, layout, size)
            } else {
                System.realloc(block, layout, size)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_decides_by_its_arguments() {
        let up = &["up", "server"];
        assert!(names_one(b"sampan\0up\0--detach\0", up));
        assert!(names_one(b"sampan\0--data-dir\0/x\0server\0", up));
        assert!(!names_one(b"up\0status\0", up), "the program's own name is no command");
        assert!(!names_one(b"sampan\0sampan-container-zygote\0", up));
        assert!(!names_one(b"sampan\0upper\0", up) && !names_one(b"", up));
        let mut arguments = [0; LOOKED_AT];
        let length = read_arguments(&mut arguments);
        let first = std::env::args().next().unwrap();
        assert!(arguments[..length].starts_with(first.as_bytes()));
    }

    #[test]
    fn both_give_out_what_was_asked_for() {
        for allocator in [
            Allocator { commands: &[], mode: AtomicU8::new(FAST) },
            Allocator::for_commands(&["no such argument"]),
        ] {
            let layout = Layout::from_size_align(100, 64).unwrap();
            // SAFETY: blocks are used within their size and given back once, with their layout.
            unsafe {
                let block = allocator.alloc_zeroed(layout);
                assert!(!block.is_null() && block.addr().is_multiple_of(64));
                assert_eq!(std::slice::from_raw_parts(block, 100), [0; 100]);
                block.write_bytes(7, 100);
                let block = allocator.realloc(block, layout, 10_000);
                assert_eq!(std::slice::from_raw_parts(block, 100), [7; 100]);
                allocator.dealloc(block, Layout::from_size_align(10_000, 64).unwrap());
            }
        }
    }
}
