//! Whether KVM really works here.
//!
//! `/dev/kvm` may open and libvirt may list `kvm` on machines without hardware virtualisation, such
//! as guests of a paravirtual KVM: an ordinary guest then never gets past its boot ROM, and its
//! user sees a VM that runs and does nothing. The processor's own flags tell, as
//! `virt-host-validate` asks for them.

use std::fs::File;
use std::io::{BufRead, BufReader};

/// Why KVM does not work here, or `None` if it does.
pub fn obstacle() -> Option<String> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm cannot be opened: {error}"));
    }
    if !cfg!(target_arch = "x86_64") {
        return None;
    }
    match File::open("/proc/cpuinfo") {
        Ok(file) if has_virtualisation(BufReader::new(&file)) => None,
        Ok(_) => Some("the processor shows neither vmx nor svm".to_owned()),
        Err(error) => Some(format!("/proc/cpuinfo cannot be read: {error}")),
    }
}

/// Whether the first processor has Intel's or AMD's virtualisation.
fn has_virtualisation(cpuinfo: impl BufRead) -> bool {
    cpuinfo
        .lines()
        .map_while(Result::ok)
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_the_processor_tell() {
        let text = |flags: &str| format!("processor\t: 0\nflags\t\t: fpu {flags} sse2\n");
        assert!(has_virtualisation(text("vmx").as_bytes()));
        assert!(has_virtualisation(text("svm").as_bytes()));
        assert!(!has_virtualisation(text("hypervisor svm_lock").as_bytes()));
        assert!(!has_virtualisation(b"processor\t: 0\n".as_slice()));
    }
}
