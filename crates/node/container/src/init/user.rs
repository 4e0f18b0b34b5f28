//! Who a process runs as, by the image's own `/etc/passwd` and `/etc/group`.

use std::fs::File;
use std::io::Read;

use crate::config::User;
use crate::error::{Error, Result};

/// Larger account files are cut off.
const MAX_FILE: u64 = 4 << 20;

/// A user as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: Option<String>,
}

/// Looks a user up in this process's root.
pub(super) fn lookup(user: &User) -> Result<Identity> {
    resolve(user, &read("/etc/passwd"), &read("/etc/group"))
}

/// A missing or unreadable file is an empty one.
fn read(path: &str) -> String {
    let mut text = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(MAX_FILE).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    })
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Group { name, gid, members: fields.next().unwrap_or("") })
    })
}

fn resolve(user: &User, passwd: &str, group: &str) -> Result<Identity> {
    let (user_part, group_part) = user.name.split_once(':').unwrap_or((&user.name, ""));
    let account = match (user.uid, user_part) {
        (Some(uid), _) => accounts(passwd).find(|account| account.uid == uid),
        (None, "") => accounts(passwd).find(|account| account.uid == 0),
        (None, name) => {
            let number = name.parse::<u32>().ok();
            accounts(passwd).find(|account| account.name == name || Some(account.uid) == number)
        }
    };
    let uid = match (user.uid, &account, user_part) {
        (Some(uid), ..) => uid,
        (None, Some(account), _) => account.uid,
        (None, None, "") => 0,
        (None, None, name) => name.parse().map_err(|_| not_found("user", name, "passwd"))?,
    };
    let gid = match (user.gid, group_part) {
        (Some(gid), _) => gid,
        // The image's group belongs to the image's user: another user has its own.
        (None, "") => account.as_ref().map_or(0, |account| account.gid),
        (None, _) if user.uid.is_some() => account.as_ref().map_or(0, |account| account.gid),
        (None, name) => match groups(group).find(|group| group.name == name) {
            Some(group) => group.gid,
            None => name.parse().map_err(|_| not_found("group", name, "group"))?,
        },
    };
    let mut all = vec![gid];
    if let Some(account) = account.as_ref().filter(|_| !user.strict_groups && group_part.is_empty()) {
        let member = |group: &Group<'_>| group.members.split(',').any(|member| member.trim() == account.name);
        all.extend(groups(group).filter(member).map(|group| group.gid));
    }
    all.extend(&user.groups);
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|gid| seen.insert(*gid));
    let home = account.map(|account| account.home.to_owned()).filter(|home| !home.is_empty());
    Ok(Identity { uid, gid, groups: all, home })
}

fn not_found(kind: &str, name: &str, file: &str) -> Error {
    let message = format!("unable to find {kind} {name}: no matching entries in {file} file");
    Error::Start { exit_code: 128, message }
}

#[cfg(test)]
mod tests {
    use super::resolve;
    use crate::config::User;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nssl:x:50:root,web\nadm:x:60:other\n";

    fn who(name: &str) -> (u32, u32, Vec<u32>) {
        let user = User { name: name.to_owned(), ..User::default() };
        let identity = resolve(&user, PASSWD, GROUP).unwrap();
        (identity.uid, identity.gid, identity.groups)
    }

    #[test]
    fn names_and_numbers_are_found() {
        assert_eq!(who(""), (0, 0, vec![0, 50]));
        assert_eq!(who("web"), (33, 34, vec![34, 50]));
        assert_eq!(who("33"), (33, 34, vec![34, 50]));
        assert_eq!(who("web:adm"), (33, 60, vec![60]));
        assert_eq!(who("1234"), (1234, 0, vec![0]));
        assert_eq!(who("1234:5678"), (1234, 5678, vec![5678]));
    }

    #[test]
    fn overrides_win_and_strict_leaves_the_images_groups_out() {
        let user =
            User { name: "web".to_owned(), uid: Some(0), gid: None, groups: vec![7], strict_groups: true };
        let identity = resolve(&user, PASSWD, GROUP).unwrap();
        assert_eq!((identity.uid, identity.gid, identity.groups), (0, 0, vec![0, 7]));
    }

    #[test]
    fn unknown_names_are_said() {
        let user = User { name: "nobody".to_owned(), ..User::default() };
        let error = resolve(&user, PASSWD, GROUP).unwrap_err().to_string();
        assert_eq!(error, "unable to find user nobody: no matching entries in passwd file");
    }
}
