//! What a container needs of its image: layers to mount, the config, and users looked up in the layers.

use std::path::PathBuf;

use crate::digest::Digest;
use crate::error::Result;
use crate::layers::lookup::Layered;
use crate::oci::ImageConfig;

/// Bytes of `/etc/passwd` or `/etc/group` that are read at most.
const ACCOUNT_FILE_LIMIT: usize = 1 << 20;

/// Layers and config of an image that is held for one container.
#[derive(Clone, Debug)]
pub struct RootfsPlan {
    /// Normalised name, or the digest when the image has no name.
    pub reference: String,
    /// Digest of the manifest (what `imageID` shows after `name@`).
    pub digest: Digest,
    /// Digest of the config (docker's image id).
    pub image_id: Digest,
    /// overlayfs lower directories, top first, as short symlinks (`<dir>/l/XXXX`); never empty.
    pub lower_dirs: Vec<PathBuf>,
    /// The directory that holds the short names: `lower_dirs` may be given relative to it.
    pub lower_base: PathBuf,
    /// What the image says about the process.
    pub config: ImageConfig,
    /// Bytes of the image as stored.
    pub size: u64,
}

/// Numbers behind a `USER`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups that `/etc/group` lists for the user.
    pub groups: Vec<u32>,
    /// Home directory, `/` when unknown.
    pub home: String,
    /// Login name, when the image knows one.
    pub name: Option<String>,
}

impl RootfsPlan {
    /// Resolve `user[:group]` (names or numbers; `None`: the image's own) with the image's account files.
    ///
    /// The error says which name is unknown. Reads at most a few small files; blocking, but short.
    pub fn resolve_user(&self, user: Option<&str>) -> Result<ResolvedUser, String> {
        let text = user.unwrap_or(&self.config.user);
        let passwd = self.read_text("/etc/passwd");
        let group = self.read_text("/etc/group");
        resolve(text, &passwd, &group)
    }

    /// A regular file of the image as a container would see it, or `None`. At most `limit` bytes are read.
    pub fn read_file(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        Layered::new(&self.lower_dirs).read_file(path, limit)
    }

    fn read_text(&self, path: &str) -> String {
        match self.read_file(path, ACCOUNT_FILE_LIMIT) {
            Ok(Some(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => String::new(),
        }
    }
}

/// Resolve `user[:group]` against the text of passwd and group files.
pub(crate) fn resolve(text: &str, passwd: &str, group: &str) -> Result<ResolvedUser, String> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 6
            && match number {
                Some(number) => fields[2].parse() == Ok(number),
                None => fields[0] == user,
            }
    });
    let mut resolved = match (&entry, number) {
        (Some(fields), _) => ResolvedUser {
            uid: fields[2].parse().map_err(|_| format!("user {user:?} has a bad id in /etc/passwd"))?,
            gid: fields[3].parse().map_err(|_| format!("user {user:?} has a bad group in /etc/passwd"))?,
            home: fields[5].to_owned(),
            name: Some(fields[0].to_owned()),
            groups: Vec::new(),
        },
        (None, Some(uid)) => ResolvedUser { uid, home: "/".into(), ..ResolvedUser::default() },
        (None, None) => {
            return Err(format!(
                "user {user:?} is not in the image's /etc/passwd (hint: use a number, or add the user)"
            ));
        }
    };
    if resolved.home.is_empty() {
        resolved.home = "/".into();
    }
    if let Some(name) = wanted_group {
        resolved.gid = resolve_group(name, group)?;
    } else if let Some(name) = &resolved.name {
        resolved.groups = memberships(name, group, resolved.gid);
    }
    Ok(resolved)
}

fn resolve_group(name: &str, group: &str) -> Result<u32, String> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    group
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 3 && fields[0] == name)
        .and_then(|fields| fields[2].parse().ok())
        .ok_or_else(|| {
            format!("group {name:?} is not in the image's /etc/group (hint: use a number, or add the group)")
        })
}

fn memberships(user: &str, group: &str, primary: u32) -> Vec<u32> {
    group
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let member = fields.len() >= 4 && fields[3].split(',').any(|name| name.trim() == user);
            member.then(|| fields[2].parse().ok()).flatten()
        })
        .filter(|gid| *gid != primary)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34::/var/www:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:www,other\nwww:x:34:www\n";

    #[test]
    fn users_by_name_and_number() {
        let www = resolve("www", PASSWD, GROUP).unwrap();
        assert_eq!(
            (www.uid, www.gid, www.home.as_str(), www.groups.as_slice()),
            (33, 34, "/var/www", &[50][..])
        );
        assert_eq!(resolve("33", PASSWD, GROUP).unwrap(), www);
        assert_eq!(resolve("", PASSWD, GROUP).unwrap().home, "/root");
        assert_eq!(resolve("www:staff", PASSWD, GROUP).unwrap().gid, 50);
        assert_eq!(
            resolve("1000", "", "").unwrap(),
            ResolvedUser { uid: 1000, home: "/".into(), ..Default::default() }
        );
        assert_eq!(resolve("1000:7", "", "").unwrap().gid, 7);
        assert!(resolve("nobody", PASSWD, GROUP).unwrap_err().contains("/etc/passwd"));
        assert!(resolve("www:none", PASSWD, GROUP).unwrap_err().contains("/etc/group"));
    }
}
