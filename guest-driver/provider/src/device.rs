// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What libibverbs learns when it loads this library: which devices it serves, and how to open one.

use core::ptr;

use vnic_abi::uverbs::UVERBS_ABI_VERSION;

use crate::context;
use crate::errno::to_pointer;
use crate::ffi::{
    VERBS_MATCH_MODALIAS, VERBS_MATCH_SENTINEL, verbs_device, verbs_device_ops, verbs_match_ent,
    verbs_match_ent__bindgen_ty_1, verbs_sysfs_dev,
};

/// A constant that C reads; the pointers in it lead to other constants.
#[repr(transparent)]
struct Constant<T>(T);

// SAFETY: nobody changes what is in it or what it points to.
unsafe impl<T> Sync for Constant<T> {}

/// The parent of the RDMA device is the virtio device, whose id the kernel prints with eight upper-case
/// hexadecimal digits. A match by the RDMA device's own name would fail once that is renamed.
static DEVICES: Constant<[verbs_match_ent; 3]> = Constant([
    modalias(c"virtio:d0000002Av*".as_ptr()),
    modalias(c"virtio:d00000026v*".as_ptr()),
    verbs_match_ent { kind: VERBS_MATCH_SENTINEL as u8, ..modalias(ptr::null()) },
]);

const fn modalias(pattern: *const core::ffi::c_char) -> verbs_match_ent {
    verbs_match_ent {
        driver_data: ptr::null_mut(),
        u: verbs_match_ent__bindgen_ty_1 { modalias: pattern },
        vendor: 0,
        device: 0,
        kind: VERBS_MATCH_MODALIAS as u8,
    }
}

static OPERATIONS: Constant<verbs_device_ops> = Constant(verbs_device_ops {
    name: c"vnic".as_ptr(),
    match_min_abi_version: UVERBS_ABI_VERSION,
    match_max_abi_version: UVERBS_ABI_VERSION,
    match_table: &DEVICES.0 as *const verbs_match_ent,
    static_providers: ptr::null_mut(),
    match_device: None,
    alloc_context: Some(context::open),
    import_context: None,
    alloc_device: Some(alloc_device),
    uninit_device: Some(uninit_device),
});

/// Called by the dynamic linker when libibverbs loads the library.
#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array")]
static REGISTER: extern "C" fn() = {
    extern "C" fn register() {
        // SAFETY: the operations and all that they point to are constants.
        unsafe { crate::ffi::verbs_register_driver(&OPERATIONS.0) }
    }
    register
};

unsafe extern "C" fn alloc_device(_sysfs: *mut verbs_sysfs_dev) -> *mut verbs_device {
    to_pointer(Ok(Box::into_raw(Box::<verbs_device>::default())))
}

unsafe extern "C" fn uninit_device(device: *mut verbs_device) {
    // SAFETY: libibverbs gives back what `alloc_device` made, once.
    drop(unsafe { Box::from_raw(device) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    use vnic_abi::config::{VIRTIO_ID_RDMA, VIRTIO_ID_STAND_IN};

    #[test]
    fn the_patterns_are_the_kernel_s_names_of_the_device_ids() {
        let ids = [VIRTIO_ID_RDMA, VIRTIO_ID_STAND_IN];
        for (entry, id) in DEVICES.0.iter().zip(ids) {
            // SAFETY: the entries but the last are patterns.
            let pattern = unsafe { CStr::from_ptr(entry.u.modalias) }.to_str().unwrap();
            assert_eq!(pattern, format!("virtio:d{id:08X}v*"));
        }
        assert_eq!(u32::from(DEVICES.0[2].kind), VERBS_MATCH_SENTINEL);
        assert_eq!(OPERATIONS.0.match_max_abi_version, UVERBS_ABI_VERSION);
    }
}
