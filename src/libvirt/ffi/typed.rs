//! libvirt's typed parameters as a plain map.

use std::collections::BTreeMap;

use virt::sys;

/// One value, widened.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::libvirt) enum Value {
    Signed(i64),
    Unsigned(u64),
    Double(f64),
    Bool(bool),
    Text(String),
}

/// Parameters by name. A getter answers `None` for a name that is missing or of another type, since
/// libvirt may widen a type between versions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::libvirt) struct Params(BTreeMap<String, Value>);

impl Params {
    /// A number that is not negative.
    pub(in crate::libvirt) fn u64(&self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            Value::Signed(value) => u64::try_from(*value).ok(),
            Value::Unsigned(value) => Some(*value),
            Value::Double(_) | Value::Bool(_) | Value::Text(_) => None,
        }
    }

    /// A number that may be negative.
    pub(in crate::libvirt) fn i64(&self, name: &str) -> Option<i64> {
        match self.0.get(name)? {
            Value::Signed(value) => Some(*value),
            Value::Unsigned(value) => i64::try_from(*value).ok(),
            Value::Double(_) | Value::Bool(_) | Value::Text(_) => None,
        }
    }

    /// A text, empty ones included.
    pub(in crate::libvirt) fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            Value::Text(value) => Some(value),
            Value::Signed(_) | Value::Unsigned(_) | Value::Double(_) | Value::Bool(_) => None,
        }
    }

    /// Copies `count` parameters; they stay libvirt's.
    ///
    /// # Safety
    /// `params` is null or points to `count` parameters that libvirt filled, valid during the call.
    pub(super) unsafe fn read(params: *const sys::virTypedParameter, count: i32) -> Params {
        let mut map = BTreeMap::new();
        let count = usize::try_from(count).unwrap_or(0);
        if params.is_null() || count == 0 {
            return Params(map);
        }
        // SAFETY: not null, and the caller promises `count` initialised elements.
        for param in unsafe { std::slice::from_raw_parts(params, count) } {
            // SAFETY: libvirt terminates the name within its 80 bytes.
            let Some(name) = (unsafe { super::borrowed(param.field.as_ptr()) }) else { continue };
            // SAFETY: `type_` says which member of the union libvirt filled; a string member is null
            // or NUL-terminated.
            let value = unsafe {
                match u32::try_from(param.type_).unwrap_or(u32::MAX) {
                    sys::VIR_TYPED_PARAM_INT => Value::Signed(i64::from(param.value.i)),
                    sys::VIR_TYPED_PARAM_UINT => Value::Unsigned(u64::from(param.value.ui)),
                    sys::VIR_TYPED_PARAM_LLONG => Value::Signed(param.value.l),
                    sys::VIR_TYPED_PARAM_ULLONG => Value::Unsigned(param.value.ul),
                    sys::VIR_TYPED_PARAM_DOUBLE => Value::Double(param.value.d),
                    sys::VIR_TYPED_PARAM_BOOLEAN => Value::Bool(param.value.b != 0),
                    sys::VIR_TYPED_PARAM_STRING => match super::borrowed(param.value.s) {
                        Some(text) => Value::Text(text),
                        None => continue,
                    },
                    _ => continue,
                }
            };
            map.insert(name, value);
        }
        Params(map)
    }

    /// Copies and frees parameters that libvirt allocated for us.
    ///
    /// # Safety
    /// `params` is null or an array of `count` parameters that libvirt allocated for the caller, who
    /// does not use it again.
    pub(super) unsafe fn take(params: *mut sys::virTypedParameter, count: i32) -> Params {
        // SAFETY: the caller promises a valid array.
        let copy = unsafe { Params::read(params, count) };
        // SAFETY: the array is ours to free, strings included, and is not used after this.
        unsafe { sys::virTypedParamsFree(params, count) };
        copy
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::{c_char, c_int};

    use super::*;

    fn param(
        name: &str,
        kind: u32,
        value: sys::_virTypedParameter__bindgen_ty_1,
    ) -> sys::virTypedParameter {
        let mut field = [0 as c_char; 80];
        for (slot, byte) in field.iter_mut().zip(name.bytes()) {
            *slot = byte as c_char;
        }
        sys::virTypedParameter { field, type_: kind as c_int, value }
    }

    #[test]
    fn numbers_are_widened_and_texts_are_copied() {
        type Union = sys::_virTypedParameter__bindgen_ty_1;
        let text = c"Debian".as_ptr().cast_mut();
        let params = [
            param("state.state", sys::VIR_TYPED_PARAM_INT, Union { i: 5 }),
            param("balloon.current", sys::VIR_TYPED_PARAM_ULLONG, Union { ul: u64::MAX }),
            param("timezone.offset", sys::VIR_TYPED_PARAM_INT, Union { i: -3600 }),
            param("os.name", sys::VIR_TYPED_PARAM_STRING, Union { s: text }),
            param("from.the.future", 99, Union { i: 1 }),
        ];
        // SAFETY: the array and the literal behind its string outlive the call.
        let map = unsafe { Params::read(params.as_ptr(), params.len() as i32) };
        assert_eq!(map.u64("state.state"), Some(5));
        assert_eq!(map.u64("balloon.current"), Some(u64::MAX));
        assert_eq!(map.u64("timezone.offset"), None);
        assert_eq!(map.i64("timezone.offset"), Some(-3600));
        assert_eq!(map.text("os.name"), Some("Debian"));
        assert_eq!(map.u64("os.name"), None);
        assert_eq!(map.u64("from.the.future"), None);
    }
}
