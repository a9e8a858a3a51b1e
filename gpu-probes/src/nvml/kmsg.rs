//! The kernel log: the driver writes a line there for each XID, with the process that caused it. NVML tells of several
//! XIDs only the last number, and never a process.
//!
//! `/dev/kmsg` may be read with CAP_SYSLOG, where `kernel.dmesg_restrict` is set. Only what the kernel itself wrote counts.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

/// No record is longer.
const LONGEST_RECORD: usize = 8 << 10;

/// Where a GPU is: domain, bus, device.
pub(super) type Address = (u32, u32, u32);

/// What a line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) address: Address,
    pub(super) gpu_instance: Option<u32>,
    pub(super) compute_instance: Option<u32>,
    pub(super) xid: u64,
    pub(super) pid: Option<u32>,
}

/// The address in a PCI bus id, as `00000000:3B:00.0`, `0000:3b:00` or `3b:00`.
pub(super) fn address(bus_id: &str) -> Option<Address> {
    let parts: Vec<&str> = bus_id.split('.').next()?.split(':').collect();
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    match parts[..] {
        [domain, bus, device] => Some((hex(domain)?, hex(bus)?, hex(device)?)),
        [bus, device] => Some((0, hex(bus)?, hex(device)?)),
        _ => None,
    }
}

/// Reads a record, as `4,812,5103,-;NVRM: Xid (PCI:0000:3b:00): 31, pid=79749, name=exe, Ch 0000000a`; none = it is no XID
/// of the kernel's.
pub(super) fn parse(record: &str) -> Option<Line> {
    let (prefix, message) = record.split_once(';')?;
    // Facility and priority; a facility other than the kernel's 0 is written from user space.
    let level: u32 = prefix.split(',').next()?.parse().ok()?;
    if level >= 8 {
        return None;
    }
    let rest = message.strip_prefix("NVRM: Xid (")?;
    let (whom, rest) = rest.split_once("): ")?;
    let mut words = whom.split(' ');
    let bus_id = words.next()?;
    let mut line = Line {
        address: address(bus_id.strip_prefix("PCI:").unwrap_or(bus_id))?,
        gpu_instance: None,
        compute_instance: None,
        xid: 0,
        pid: None,
    };
    for word in words {
        match word.split_once(':') {
            Some(("GPU-I", id)) => line.gpu_instance = id.parse().ok(),
            Some(("GPU-CI", id)) => line.compute_instance = id.parse().ok(),
            _ => {}
        }
    }
    let mut parts = rest.split(',').map(str::trim);
    line.xid = parts.next()?.parse().ok()?;
    // Not a number where the driver does not know: `pid='<unknown>'`.
    line.pid = parts
        .next()
        .and_then(|part| part.strip_prefix("pid="))
        .and_then(|pid| pid.parse().ok());
    Some(line)
}

/// Follows the log from its end.
#[derive(Debug)]
pub(super) struct Kmsg {
    file: File,
    /// A record whose end has not come: from a pipe.
    cut: Vec<u8>,
}

impl Kmsg {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let mut file = File::from(open(
            path,
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )?);
        match file.seek(SeekFrom::End(0)) {
            // A pipe has no end to go to.
            Err(error) if error.raw_os_error() != Some(Errno::SPIPE.raw_os_error()) => Err(error),
            _ => Ok(Self {
                file,
                cut: Vec::new(),
            }),
        }
    }

    /// The XIDs that were written since; empty when `timeout` passed without any. Fails when the log is no longer there.
    pub(super) fn wait(&mut self, timeout: Duration) -> std::io::Result<Vec<Line>> {
        let timeout = Timespec::try_from(timeout).unwrap_or_default();
        match poll(
            &mut [PollFd::new(&self.file, PollFlags::IN)],
            Some(&timeout),
        ) {
            Ok(0) | Err(Errno::INTR) => return Ok(Vec::new()),
            other => other?,
        };
        let mut lines = Vec::new();
        let mut record = [0; LONGEST_RECORD];
        // One record a read. Not more at once than fit into the caller's queue.
        while lines.len() < 64 {
            match self.file.read(&mut record) {
                // The other end of a pipe is closed: poll would not wait for the next.
                Ok(0) => {
                    if lines.is_empty() {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    break;
                }
                Ok(length) => self.take(&record[..length], &mut lines),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    // Records were overwritten before they were read: the next read goes on with what is left.
                    ErrorKind::BrokenPipe | ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(lines)
    }

    fn take(&mut self, bytes: &[u8], lines: &mut Vec<Line>) {
        self.cut.extend_from_slice(bytes);
        while let Some(end) = self.cut.iter().position(|byte| *byte == b'\n') {
            lines.extend(parse(&String::from_utf8_lossy(&self.cut[..end])));
            self.cut.drain(..=end);
        }
        if self.cut.len() > LONGEST_RECORD {
            self.cut.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(address: Address, xid: u64, pid: Option<u32>) -> Option<Line> {
        Some(Line {
            address,
            gpu_instance: None,
            compute_instance: None,
            xid,
            pid,
        })
    }

    #[test]
    fn every_form_that_drivers_write() {
        let mig = |xid, pid, gpu_instance, compute_instance| {
            Some(Line {
                gpu_instance,
                compute_instance,
                ..line((0, 0x3b, 0), xid, pid).unwrap()
            })
        };
        for (message, told) in [
            (
                "NVRM: Xid (PCI:0000:05:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
                line((0, 5, 0), 79, None),
            ),
            (
                "NVRM: Xid (PCI:0000:01:00): 79, pid=1122, GPU has fallen off the bus.",
                line((0, 1, 0), 79, Some(1122)),
            ),
            (
                "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.",
                line((0, 1, 0), 79, None),
            ),
            (
                "NVRM: Xid (PCI:0000:65:00): 31, pid=79749, name=exe, Ch 0000000a, intr 00000000. MMU Fault",
                line((0, 0x65, 0), 31, Some(79749)),
            ),
            (
                "NVRM: Xid (0000:03:00): 14, Channel 00000001",
                line((0, 3, 0), 14, None),
            ),
            (
                "NVRM: Xid (PCI:0018:01:00): 145, RLW_CTRL Nonfatal XC0 i0 Link 00",
                line((0x18, 1, 0), 145, None),
            ),
            (
                "NVRM: Xid (PCI:0000:c1:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
                line((0, 0xc1, 0), 154, None),
            ),
            (
                "NVRM: Xid (PCI:0000:3b:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9)",
                mig(94, Some(7194), Some(5), None),
            ),
            (
                "NVRM: Xid (PCI:0000:3b:00 GPU-I:01 GPU-CI:02): 13, pid=9, name=a, Graphics Exception",
                mig(13, Some(9), Some(1), Some(2)),
            ),
            (
                "NVRM: Xid (PCI:0000:3b:00): 79, ",
                line((0, 0x3b, 0), 79, None),
            ),
        ] {
            assert_eq!(parse(&format!("4,812,5103,-;{message}")), told, "{message}");
        }
    }

    #[test]
    fn what_is_no_xid_of_the_kernel_is_none() {
        for record in [
            "4,812,5103,-;NVRM: GPU 0000:01:00.0: GPU has fallen off the bus.",
            "4,812,5103,-;NVRM: Xid (PCI:0000:01:00): abc, pid=1",
            "4,812,5103,-;NVRM: Xid (PCI:0000:01:00): -79, pid=1",
            "4,812,5103,-;NVRM: Xid (PCI:zz:01:00): 79, pid=1",
            "4,812,5103,-;NVRM: Xid (): 79",
            "4,812,5103,-;NVRM: Xid (PCI:0000:01:00",
            "4,812,5103,-;someone said NVRM: Xid (PCI:0000:01:00): 79",
            // Written by a process: facility 1.
            "12,812,5103,-;NVRM: Xid (PCI:0000:01:00): 79, pid=1",
            "NVRM: Xid (PCI:0000:01:00): 79, pid=1",
            " SUBSYSTEM=pci",
            "",
        ] {
            assert_eq!(parse(record), None, "{record}");
        }
    }

    #[test]
    fn bus_ids_of_nvml_and_of_the_kernel_are_one_address() {
        assert_eq!(address("00000000:3B:00.0"), Some((0, 0x3b, 0)));
        assert_eq!(address("0000:3b:00"), address("00000000:3B:00.0"));
        assert_eq!(address("00000018:01:00.0"), Some((0x18, 1, 0)));
        assert_eq!(address("3b:00"), Some((0, 0x3b, 0)));
        assert_eq!(address(""), None);
        assert_eq!(address("1:2:3:4"), None);
    }
}
