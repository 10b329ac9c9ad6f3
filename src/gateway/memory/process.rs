//! What memory the process holds, and how much it may hold: `limits.memory`, or a part of what its cgroup or the machine has.
//! Elsewhere than on Linux nothing is known, and there is no limit.

#[cfg(target_os = "linux")]
use std::{fs, path::Path};

use bytesize::ByteSize;

/// How much of the cgroup's or the machine's memory a node takes by default, in percent. The rest is for what is not in its
/// resident set: the kernel's buffers of its sockets, and what arrives until it is looked at again.
const PERCENT: u64 = 80;

/// The bytes that may be resident, with `limits.memory` as configured; none: no limit.
pub(crate) fn limit(configured: Option<ByteSize>) -> Option<u64> {
    match configured {
        None => available().map(|bytes| bytes / 100 * PERCENT),
        Some(ByteSize(0)) => None,
        Some(ByteSize(bytes)) => Some(bytes),
    }
}

/// The bytes that are resident; none if that can't be read.
#[cfg(target_os = "linux")]
pub(super) fn resident() -> Option<u64> {
    let statm = procfs::process::Process::myself().ok()?.statm().ok()?;
    Some(statm.resident * procfs::page_size())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn resident() -> Option<u64> {
    None
}

/// The memory that there is for the process: of its cgroup and the cgroups around it, or of the machine, whichever is least.
#[cfg(target_os = "linux")]
fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.as_deref().and_then(total_of);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = least_of_groups(&groups, Path::new("/sys/fs/cgroup"));
    machine.into_iter().chain(groups).min()
}

#[cfg(not(target_os = "linux"))]
fn available() -> Option<u64> {
    None
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
#[cfg(target_os = "linux")]
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The least limit of the cgroups in `/proc/self/cgroup` and of those around them (cgroups(7)): `memory.max` of version 2,
/// `memory.limit_in_bytes` of version 1, where none is a number beyond any machine's memory. In a container the paths of version 1
/// are the host's: they may not be there, and then the mount's root is the container's own group.
#[cfg(target_os = "linux")]
fn least_of_groups(groups: &str, mount: &Path) -> Option<u64> {
    groups
        .lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let (root, file) = match controllers {
                "" => (mount.to_owned(), "memory.max"),
                v1 if v1.split(',').any(|one| one == "memory") => {
                    (mount.join("memory"), "memory.limit_in_bytes")
                }
                _ => return None,
            };
            let own = root.join(path.trim_start_matches('/'));
            own.ancestors()
                .take_while(|group| group.starts_with(&root))
                .filter_map(|group| {
                    fs::read_to_string(group.join(file))
                        .ok()?
                        .trim()
                        .parse()
                        .ok()
                })
                .min()
        })
        .min()
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_memory_and_a_limit() {
        let resident = resident().unwrap();
        assert!(
            (1_000_000..100_000_000_000).contains(&resident),
            "{resident}"
        );
        let default = limit(None).unwrap();
        assert!(default > 10_000_000 && default <= available().unwrap() / 10 * 9);
        assert_eq!(limit(Some(ByteSize(0))), None);
        assert_eq!(limit(Some(ByteSize::mb(7))), Some(7_000_000));
        assert_eq!(
            total_of("MemTotal:       24105000 kB\nMemFree: 1 kB\n"),
            Some(24_105_000 * 1024)
        );
    }

    #[test]
    fn the_least_limit_counts_of_the_own_group_and_those_around_it() {
        let mount = tempfile::tempdir().unwrap();
        let set = |group: &str, file: &str, text: &str| {
            let dir = mount.path().join(group);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(file), text).unwrap();
        };
        let least = |groups: &str| least_of_groups(groups, mount.path());
        assert_eq!(least("0::/a/b\n"), None);
        set("a", "memory.max", "2000\n");
        set("a/b", "memory.max", "max\n");
        assert_eq!(least("0::/a/b\n"), Some(2000));
        set("a/b", "memory.max", "1000\n");
        assert_eq!(least("0::/a/b\n"), Some(1000));
        assert_eq!(least("0::/a\n"), Some(2000));
        assert_eq!(least("0::/\n"), None);
        set("", "memory.max", "500\n");
        assert_eq!(least("0::/\n"), Some(500));

        set("memory/docker/x", "memory.limit_in_bytes", "300\n");
        set("memory", "memory.limit_in_bytes", "9223372036854771712\n");
        let v1 = "12:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n1:name=systemd:/docker/x\n";
        assert_eq!(least(v1), Some(300));
        assert_eq!(
            least("4:memory:/not/mounted/here\n"),
            Some(9_223_372_036_854_771_712)
        );
    }
}
