// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A VM's RAM while it changes: modules are plugged in and out of a running machine.
//!
//! A view ([`GuestRam`]) never changes; a new one takes its place. What refers to RAM does so in two
//! ways:
//!
//! - **Translations** follow the current view. Each [`replace`](LiveRam::replace) moves a generation
//!   on; a [`Translator`](crate::translate::Translator) looks at it once per burst and address space,
//!   and forgets the space when it moved. So memory that was added is reached at once, and memory
//!   that was removed is reached by no burst that begins after the replacement. Bursts that began
//!   before may still use it: whoever replaces a view waits for them, and only then tells the
//!   monitor that the memory is free.
//! - **Objects** (rings, doorbell, epoch and invalidation pages) keep the mapping of the region that
//!   they lie in, see [`Mapping`](crate::memory::Mapping). A kernel does not let go of memory that it
//!   gave to a device, so such a region is not removed; if a monitor removes it nevertheless, the
//!   object goes on in memory that is no longer the guest's, harms nobody, and nothing faults.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};

use crate::memory::GuestRam;

/// The RAM of a VM as it is now. Clones share it.
#[derive(Clone)]
pub struct LiveRam {
    inner: Arc<Inner>,
}

struct Inner {
    view: ArcSwap<GuestRam>,
    /// How often `view` was replaced. Read once per burst by every worker, written almost never.
    generation: AtomicU64,
}

/// A view that is looked at for a moment.
pub struct View(Guard<Arc<GuestRam>>);

impl Deref for View {
    type Target = GuestRam;

    #[inline]
    fn deref(&self) -> &GuestRam {
        &self.0
    }
}

/// A view that has been replaced. To drop it leaves its mappings in place for good, since
/// translations may still lead into them; [`release`](Self::release) does not.
#[must_use = "what is dropped stays mapped"]
pub struct Retired(ManuallyDrop<Arc<GuestRam>>);

impl LiveRam {
    /// RAM that begins as `view`.
    pub fn new(view: GuestRam) -> Self {
        let view = ArcSwap::from_pointee(view);
        Self { inner: Arc::new(Inner { view, generation: AtomicU64::new(0) }) }
    }

    /// The view as it is now, to keep. Costs a reference count.
    pub fn current(&self) -> GuestRam {
        GuestRam::clone(&self.load())
    }

    /// The view as it is now, to look at: neither a lock nor, usually, a reference count.
    #[inline]
    pub fn load(&self) -> View {
        View(self.inner.view.load())
    }

    /// How often the view was replaced.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        // Acquire: pairs with the Release in `replace`; who sees this generation loads its view, or
        // a later one.
        self.inner.generation.load(Ordering::Acquire)
    }

    /// Puts `view` into the place of the current one. One caller at a time.
    ///
    /// A burst that begins behind a full fence behind the return translates in `view` alone.
    pub fn replace(&self, view: GuestRam) -> Retired {
        let old = self.inner.view.swap(Arc::new(view));
        // Release: pairs with the Acquire in `generation`.
        self.inner.generation.fetch_add(1, Ordering::Release);
        Retired(ManuallyDrop::new(old))
    }
}

impl From<GuestRam> for LiveRam {
    fn from(view: GuestRam) -> Self {
        Self::new(view)
    }
}

impl fmt::Debug for LiveRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.load(), f)
    }
}

impl Retired {
    /// Lets go of the view: regions that neither the new view nor an object holds are unmapped.
    ///
    /// # Safety
    ///
    /// Every burst that began before the view was replaced has ended, and so has every other use of
    /// a [`HostPtr`](crate::memory::HostPtr) made from it whose owner holds no mapping.
    #[allow(unsafe_code)] // reason: when translations have ended is the caller's to know
    pub unsafe fn release(self) {
        drop(ManuallyDrop::into_inner(self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Gpa;
    use crate::testing::anonymous_ram;

    #[test]
    fn a_replaced_view_is_seen_at_once_and_goes_when_released() {
        let (old, new) = (anonymous_ram(0x1000), anonymous_ram(0x2000));
        let mapped = Arc::downgrade(old.memory());
        let live = LiveRam::new(old);
        let other = live.clone();
        assert!(!other.load().contains(Gpa(0x1000), 1));
        let retired = live.replace(new);
        assert!(other.load().contains(Gpa(0x1000), 1));
        assert_eq!(other.generation(), 1);
        assert!(mapped.upgrade().is_some());
        #[allow(unsafe_code)] // reason: the function under test
        // SAFETY: nothing was ever translated.
        unsafe {
            retired.release();
        }
        assert!(mapped.upgrade().is_none());
    }
}
