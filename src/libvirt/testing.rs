//! A hypervisor on libvirt's test driver, for this room's tests.
