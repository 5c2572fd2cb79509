//! The C library's allocator, which libvirt's replies and everything made of them come from.
//!
//! By default each thread gets an arena of its own, and what one thread frees no other uses: with
//! the daemon's many threads a few large lists leave tens of MiB behind. Two arenas are enough for
//! what runs at once, and what a bulk reply has left is given back.
//!
//! Nor does it keep a buffer of a stream at hand by default: whatever has 128 KiB is mapped for itself,
//! or given back from the end of the heap as soon as it is free, and its pages are made and cleared anew
//! some thousand times a second.
//!
//! So is code, this program's and that of the libraries it is linked with. The kernel maps 64 KiB
//! around each page that is touched, so that most of it stays mapped for what ran once: relocation and
//! initialization of forty libraries, a start, a migration of the database, the API's description.

use std::ffi::{CStr, c_int, c_void};
use std::ops::Range;
use std::sync::OnceLock;

use nix::libc;

/// Arenas for all threads together.
const ARENAS: i32 = 2;

/// Bytes from which on an allocation is mapped for itself: more than a message of a stream has, less
/// than a bulk reply.
const MAPPED: i32 = 1 << 20;

/// Bytes that an arena keeps at its end: the messages of a stream or two.
const KEPT: i32 = 4 << 20;

/// Sets the allocator up; to be called before the first thread is started.
pub(in crate::libvirt) fn set_up_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers and changes only the allocator's own settings.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}

/// Gives memory that is free back to the system; takes some milliseconds.
pub(in crate::libvirt) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time from any thread; it touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of code and constants, which are mapped again where they are used; takes some microseconds.
///
/// The first call decides which: those of the program and of the libraries that are there by then. Only
/// before the first thread is started are these known to stay, as the program is linked with them.
pub(in crate::libvirt) fn let_go_of_code() {
    static LINKED: OnceLock<Vec<Range<usize>>> = OnceLock::new();
    for Range { start, end } in LINKED.get_or_init(code) {
        // SAFETY: the range is a part of a file that is mapped for as long as the process lives and
        // that nobody writes: its pages are those of the file, and whoever touches one that is no
        // longer mapped gets it from there again.
        unsafe {
            libc::madvise(*start as *mut c_void, end - start, libc::MADV_DONTNEED);
        }
    }
}

/// The pages of every object's segments that may not be written. Relocated constants, which are sealed
/// later, lie in segments that may.
fn code() -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    // SAFETY: the callback gets this vector, which outlives the call, and nobody else has it.
    unsafe {
        libc::dl_iterate_phdr(Some(note_code), (&raw mut ranges).cast());
    }
    ranges
}

/// Adds an object's segments to the vector in `ranges`.
unsafe extern "C" fn note_code(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    ranges: *mut c_void,
) -> c_int {
    // SAFETY: the loader hands over a valid object whose name and headers last for this call, and
    // `ranges` is what `code` gave it.
    let (name, base, headers, ranges) = unsafe {
        let object = &*object;
        let name = (!object.dlpi_name.is_null()).then(|| CStr::from_ptr(object.dlpi_name));
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum));
        (name, object.dlpi_addr, headers, &mut *ranges.cast::<Vec<Range<usize>>>())
    };
    // The kernel's own object is no file.
    if name.is_some_and(|name| name.to_bytes().starts_with(b"linux-vdso")) {
        return 0;
    }
    let page = page_size();
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let start = base.wrapping_add(header.p_vaddr);
            let within = pages_within(start..start.wrapping_add(header.p_filesz), page);
            ranges.extend(within.map(|range| range.start as usize..range.end as usize));
        }
    }
    0
}

/// The whole pages in a range of addresses: those at its ends may hold something else as well.
fn pages_within(range: Range<u64>, page: u64) -> Option<Range<u64>> {
    let (start, end) = (range.start.next_multiple_of(page), range.end - range.end % page);
    (start < end).then_some(start..end)
}

fn page_size() -> u64 {
    // SAFETY: sysconf takes a number and gives one.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // The largest that Linux has, if it does not tell.
    u64::try_from(size).unwrap_or(64 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_are_let_go_of() {
        let within = |start, end| pages_within(start..end, 0x1000);
        assert_eq!(within(0x1000, 0x3000), Some(0x1000..0x3000));
        assert_eq!(within(0x1001, 0x3fff), Some(0x2000..0x3000));
        assert_eq!(within(0x1001, 0x2fff), None);
        assert_eq!(within(0, 0), None);
    }

    #[test]
    fn code_is_what_files_hold_and_nobody_writes() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ranges = code();
        let address = |digits: &str| usize::from_str_radix(digits, 16).unwrap();
        let mut objects = std::collections::BTreeSet::new();
        for range in &ranges {
            let line = maps.lines().find(|line| {
                let (start, rest) = line.split_once('-').unwrap();
                let end = rest.split_once(' ').unwrap().0;
                address(start) <= range.start && range.end <= address(end)
            });
            let words: Vec<&str> = line.expect("it is one mapping").split_whitespace().collect();
            assert!(words[1].starts_with("r-") && words[1].ends_with('p'), "{words:?}");
            assert!(words[5].starts_with('/'), "{words:?}");
            objects.insert(words[5].to_owned());
        }
        let here = code as *const () as usize;
        assert!(ranges.iter().any(|range| range.contains(&here)), "{ranges:x?}");
        assert!(objects.iter().any(|object| object.contains("libvirt.so")), "{objects:?}");
    }

    #[test]
    fn a_program_runs_on_after_it_has_let_go_of_its_code() {
        let kept: Vec<String> = (0..1000).map(|number| format!("{number}")).collect();
        let_go_of_code();
        assert!(kept.iter().enumerate().all(|(number, text)| *text == format!("{number}")));
    }
}
