//! The only room that names `rusqlite`: what libvirt does not keep.
