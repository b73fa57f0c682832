// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The macros that define a wire type once, for Rust and for C.

use zerocopy::little_endian::{U16, U32, U64};

/// One field of a wire structure, as the C header shows it.
#[derive(Debug, Clone, Copy)]
pub struct FieldInfo {
    /// Name, the same in both languages.
    pub name: &'static str,
    /// C type without the array part, e.g. `__le32`.
    pub c_type: &'static str,
    /// Number of elements if the field is an array, else 0.
    pub array: usize,
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// One wire structure.
#[derive(Debug, Clone, Copy)]
pub struct StructInfo {
    /// C tag, e.g. `vnic_sge`.
    pub c_name: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Fields in order.
    pub fields: &'static [FieldInfo],
}

/// One open enumeration: a C prefix and its named values.
#[derive(Debug, Clone, Copy)]
pub struct CodeInfo {
    /// Common prefix in C, e.g. `VNIC_CMD`.
    pub c_prefix: &'static str,
    /// Name and value of each code.
    pub values: &'static [(&'static str, u64)],
}

/// One set of flag bits.
#[derive(Debug, Clone, Copy)]
pub struct FlagInfo {
    /// Common prefix in C.
    pub c_prefix: &'static str,
    /// Name and mask of each flag.
    pub values: &'static [(&'static str, u64)],
}

/// A named number.
#[derive(Debug, Clone, Copy)]
pub struct ConstInfo {
    /// Name in C.
    pub c_name: &'static str,
    /// Value.
    pub value: u64,
}

/// A type that may stand in a wire structure.
pub trait WireType {
    /// C type of one element.
    const C_TYPE: &'static str;
    /// Number of elements if this is an array, else 0.
    const ARRAY: usize = 0;
}

impl WireType for u8 {
    const C_TYPE: &'static str = "__u8";
}
impl WireType for U16 {
    const C_TYPE: &'static str = "__le16";
}
impl WireType for U32 {
    const C_TYPE: &'static str = "__le32";
}
impl WireType for U64 {
    const C_TYPE: &'static str = "__le64";
}
impl<T: WireType, const N: usize> WireType for [T; N] {
    const C_TYPE: &'static str = T::C_TYPE;
    const ARRAY: usize = N;
}

/// Defines a wire structure together with the description from which the C header is made.
macro_rules! wire {
    ($(#[$meta:meta])* $vis:vis struct $name:ident = $c_name:literal {
        $($(#[$fmeta:meta])* $fvis:vis $field:ident : $ty:ty,)*
    }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable,
            zerocopy::KnownLayout, zerocopy::Unaligned,
        )]
        $vis struct $name { $($(#[$fmeta])* $fvis $field: $ty,)* }

        impl $name {
            /// Layout of this structure, for the C header.
            pub const INFO: crate::StructInfo = crate::StructInfo {
                c_name: $c_name,
                size: core::mem::size_of::<$name>(),
                fields: &[$(crate::FieldInfo {
                    name: stringify!($field),
                    c_type: <$ty as crate::WireType>::C_TYPE,
                    array: <$ty as crate::WireType>::ARRAY,
                    offset: core::mem::offset_of!($name, $field),
                    size: core::mem::size_of::<$ty>(),
                },)*],
            };
        }

        impl Default for $name {
            fn default() -> Self { zerocopy::FromZeros::new_zeroed() }
        }

        impl crate::WireType for $name {
            const C_TYPE: &'static str = concat!("struct ", $c_name);
        }
    };
}

/// Defines an open enumeration: a number with named values.
macro_rules! codes {
    ($(#[$meta:meta])* $vis:vis enum $name:ident : $repr:ty = $c_prefix:literal {
        $($(#[$vmeta:meta])* $value:ident / $c:ident = $num:expr,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis struct $name(pub $repr);

        impl $name {
            $($(#[$vmeta])* #[allow(non_upper_case_globals)] pub const $value: $name = $name($num);)*

            /// Every named value, for the C header and for tests.
            pub const INFO: crate::CodeInfo = crate::CodeInfo {
                c_prefix: $c_prefix,
                values: &[$((stringify!($c), $num as u64),)*],
            };

            /// The name of this value, if it has one.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($num => Some(stringify!($value)),)* _ => None }
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, concat!(stringify!($name), "({:#x})"), self.0),
                }
            }
        }
    };
}

/// Defines a set of flags over an integer.
macro_rules! flags {
    ($(#[$($meta:tt)*])* $vis:vis struct $name:ident : $repr:ty = $c_prefix:literal {
        $($(#[$($vmeta:tt)*])* $c:ident = $num:expr;)*
    }) => {
        bitflags::bitflags! {
            $(#[$($meta)*])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
            $vis struct $name: $repr { $($(#[$($vmeta)*])* const $c = $num;)* }
        }
        impl $name {
            /// Every flag, for the C header.
            pub const INFO: crate::FlagInfo = crate::FlagInfo {
                c_prefix: $c_prefix,
                values: &[$((stringify!($c), $num as u64),)*],
            };
        }
    };
}

/// Lists plain numbers for the C header.
macro_rules! consts {
    ($(#[$meta:meta])* $vis:vis const $name:ident = [$($rust:ident : $c:literal = $value:expr,)*];) => {
        $(#[$meta])*
        $vis const $name: &[crate::ConstInfo] =
            &[$(crate::ConstInfo { c_name: $c, value: $value },)*];
    };
}
