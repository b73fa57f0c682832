// SPDX-License-Identifier: Apache-2.0 OR MIT
//! By which of its addresses a port of the host is reached: an entry of its GID table.
//!
//! The kernel tells the table and the kinds of its entries in sysfs (`Documentation/ABI/stable/sysfs-class-infiniband`).

use std::fs;
use std::path::Path;

/// An address, in network byte order.
pub type Gid = [u8; 16];

/// An entry of the table that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its index.
    pub index: u8,
    /// The address.
    pub gid: Gid,
    /// The kernel's name for its kind.
    pub kind: String,
}

impl Entry {
    /// Whether it is routed by IP.
    pub fn is_routable(&self) -> bool {
        self.kind == "RoCE v2"
    }

    /// Whether it is an IPv4 address.
    fn is_ipv4(&self) -> bool {
        self.gid[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]
    }

    /// Whether it is an address that only means something on its own cable.
    fn is_link_local(&self) -> bool {
        self.gid[..2] == [0xfe, 0x80]
    }
}

/// The entries of port `port` of the device whose folder in sysfs is `folder`, in order.
pub fn table(folder: &Path, port: u8) -> Vec<Entry> {
    let folder = folder.join(format!("ports/{port}"));
    let entry = |index: u8| {
        // Entries that are not in use have no kind: reading it fails.
        let kind = fs::read_to_string(folder.join(format!("gid_attrs/types/{index}"))).ok()?;
        let text = fs::read_to_string(folder.join(format!("gids/{index}"))).ok()?;
        let gid = parse(text.trim())?;
        (gid != [0; 16]).then(|| Entry { index, gid, kind: kind.trim().to_owned() })
    };
    (0..=u8::MAX).filter_map(entry).collect()
}

/// Eight groups of four hexadecimal digits.
fn parse(text: &str) -> Option<Gid> {
    let mut gid = [0; 16];
    let mut groups = text.split(':');
    for pair in gid.chunks_exact_mut(2) {
        let group = groups.next().filter(|group| group.len() == 4)?;
        pair.copy_from_slice(&u16::from_str_radix(group, 16).ok()?.to_be_bytes());
    }
    groups.next().is_none().then_some(gid)
}

/// The entry to use: the one that is asked for; else one that is routed by IP, of IPv4 before others, and of the
/// cable's own last. `None` if there is none.
pub fn choose(entries: &[Entry], asked: Option<u8>) -> Option<&Entry> {
    if let Some(index) = asked {
        return entries.iter().find(|entry| entry.index == index);
    }
    let routable = || entries.iter().filter(|entry| entry.is_routable());
    let best = routable().find(|entry| entry.is_ipv4());
    best.or_else(|| routable().find(|entry| !entry.is_link_local())).or_else(|| routable().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u8, text: &str, kind: &str) -> Entry {
        Entry { index, gid: parse(text).unwrap(), kind: kind.into() }
    }

    #[test]
    fn addresses_that_are_routed_come_first() {
        let own = entry(1, "fe80:0000:0000:0000:5054:00ff:fe00:0001", "RoCE v2");
        let old = entry(0, "0000:0000:0000:0000:0000:ffff:0a00:0001", "IB/RoCE v1");
        let six = entry(2, "2001:0db8:0000:0000:0000:0000:0000:0001", "RoCE v2");
        let four = entry(3, "0000:0000:0000:0000:0000:ffff:0a00:0001", "RoCE v2");
        let all = [old.clone(), own.clone(), six.clone(), four.clone()];
        assert_eq!(choose(&all, None), Some(&four));
        assert_eq!(choose(&all[..3], None), Some(&six));
        assert_eq!(choose(&all[..2], None), Some(&own));
        assert_eq!(choose(&all[..1], None), None);
        assert_eq!(choose(&all, Some(0)), Some(&old));
        assert_eq!(choose(&all, Some(9)), None);
    }

    #[test]
    fn the_table_is_read_as_the_kernel_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join("ports/1").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("gids/0", "fe80:0000:0000:0000:5054:00ff:fe00:0001\n");
        write("gid_attrs/types/0", "RoCE v2\n");
        write("gids/1", "0000:0000:0000:0000:0000:0000:0000:0000\n");
        write("gid_attrs/types/1", "RoCE v2\n");
        write("gids/2", "0000:0000:0000:0000:0000:ffff:0a00:0001\n");
        write("gids/7", "nonsense\n");
        write("gid_attrs/types/7", "RoCE v2\n");
        let found = table(dir.path(), 1);
        assert_eq!(found, [entry(0, "fe80:0000:0000:0000:5054:00ff:fe00:0001", "RoCE v2")]);
        for bad in [
            "",
            "0:0:0:0:0:0:0:0",
            "0000:0000:0000:0000:0000:0000:0000",
            "g000:0000:0000:0000:0000:0000:0000:0000",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
