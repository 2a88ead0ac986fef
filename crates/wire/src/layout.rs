//! One way to write down a wire structure: offset, name and type of each field, all checked.

/// Declares a little-endian wire structure with its size, and the byte offset of every field.
///
/// Size and offsets are asserted at compile time, so a slip in one field cannot shift the rest
/// unnoticed. Reserved fields are zero in a `Default` value.
macro_rules! layout {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $size:literal {
            $( $(#[$fmeta:meta])* $offset:literal: pub $field:ident: $ty:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout,
            zerocopy::Immutable, zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty, )* }

        const _: () = {
            assert!(size_of::<$name>() == $size);
            $( assert!(std::mem::offset_of!($name, $field) == $offset); )*
        };

        impl $name {
            /// Size on the wire, in bytes.
            pub const SIZE: usize = $size;

            /// Reads the structure from the front of `bytes`.
            ///
            /// # Errors
            /// [`Malformed`](crate::Malformed) when `bytes` is shorter than [`Self::SIZE`].
            pub fn from_prefix(bytes: &[u8]) -> Result<Self, $crate::Malformed> {
                zerocopy::FromBytes::read_from_prefix(bytes)
                    .map(|(value, _)| value)
                    .map_err(|_| $crate::Malformed::short(stringify!($name), bytes.len()))
            }

            /// The structure's bytes, as they go onto the wire.
            pub fn bytes(&self) -> &[u8] {
                zerocopy::IntoBytes::as_bytes(self)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    };
}
