//! Which edges an input takes: the counters that the compiler's coverage pass puts into every function.

use std::sync::Mutex;

/// The counters of each part of the program, as address and length.
static REGIONS: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Called before `main`, once for each part of the program, by code that the coverage pass generates.
///
/// # Safety
/// `start..end` is one array of bytes that lives as long as the program.
#[unsafe(no_mangle)]
unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, end: *mut u8) {
    let region = (start as usize, end as usize - start as usize);
    let mut regions = REGIONS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if region.1 > 0 && !regions.contains(&region) {
        regions.push(region);
    }
}

/// The table of code addresses that goes with the counters: not needed, but the generated code calls this.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_pcs_init(_start: *const usize, _end: *const usize) {}

/// What all inputs so far did.
pub(crate) struct Coverage {
    regions: Vec<(usize, usize)>,
    /// For each counter, the classes of counts seen, a bit each.
    seen: Vec<u8>,
}

impl Coverage {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        let regions = REGIONS
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        let counters = regions.iter().map(|(_, length)| length).sum();
        Coverage {
            regions,
            seen: vec![0; counters],
        }
    }

    /// How many edges there are.
    pub(crate) fn edges(&self) -> usize {
        self.seen.len()
    }

    /// How many edges were taken at all.
    pub(crate) fn taken(&self) -> usize {
        self.seen.iter().filter(|classes| **classes != 0).count()
    }

    /// Sets all counters to zero.
    pub(crate) fn clear(&self) {
        for &(start, length) in &self.regions {
            // SAFETY: the region is an array of bytes that lives as long as the program, and all that code ever does
            // to it is to add to a byte; no reference to it exists anywhere.
            unsafe { std::ptr::write_bytes(start as *mut u8, 0, length) };
        }
    }

    /// Adds what was counted since [`Coverage::clear`]; whether any of it is new.
    pub(crate) fn absorb(&mut self) -> bool {
        let mut new = false;
        let mut seen = self.seen.iter_mut();
        for &(start, length) in &self.regions {
            for (place, classes) in (start..start + length).zip(seen.by_ref()) {
                // SAFETY: as in `clear`; volatile, because this very function is counted too.
                let count = unsafe { std::ptr::read_volatile(place as *const u8) };
                let class = class_of(count);
                new |= class & !*classes != 0;
                *classes |= class;
            }
        }
        new
    }
}

/// The class of a count, as one bit; none for zero. Loops that run a little longer are nothing new.
fn class_of(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..8 => 8,
        8..16 => 16,
        16..32 => 32,
        32..128 => 64,
        128.. => 128,
    }
}
