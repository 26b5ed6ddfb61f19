//! Which absolute path a client means. Purely lexical: nothing here looks at the disk.

use std::path::{Component, Path, PathBuf};

use crate::users::User;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("path contains a NUL byte")]
    Nul,
    #[error("path '{0}': another user's home directory is not supported, use an absolute path")]
    OtherHome(String),
}

/// `~` and relative paths start at the user's home; an empty path is the default working
/// directory, or the home where there is none.
pub(crate) fn resolve(
    path: &str,
    user: &User,
    default_workdir: Option<&str>,
) -> Result<PathBuf, Invalid> {
    let path = match path {
        "" => default_workdir.unwrap_or_default(),
        path => path,
    };
    if path.contains('\0') || user.home.contains('\0') {
        return Err(Invalid::Nul);
    }
    let home = Path::new("/").join(&user.home);
    let path = match path.strip_prefix('~') {
        None => home.join(path),
        Some("") => home,
        Some(rest) => match rest.strip_prefix('/') {
            Some(rest) => home.join(rest.trim_start_matches('/')),
            None => return Err(Invalid::OtherHome(path.to_owned())),
        },
    };
    Ok(clean(&path))
}

/// Without `.`, `..`, doubled and trailing slashes; always absolute.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(home: &str) -> User {
        User { name: "user".into(), uid: 1000, gid: 1000, home: home.into() }
    }

    #[test]
    fn each_form_of_path_has_its_meaning() {
        for (path, workdir, expect) in [
            ("/etc/passwd", None, "/etc/passwd"),
            ("//etc/./x/../passwd/", None, "/etc/passwd"),
            ("/../..", None, "/"),
            ("a/b", None, "/home/user/a/b"),
            ("a/b", Some("/app"), "/home/user/a/b"),
            ("~", None, "/home/user"),
            ("~/x", None, "/home/user/x"),
            ("~//x", None, "/home/user/x"),
            ("", None, "/home/user"),
            ("", Some("/app"), "/app"),
            ("", Some("app"), "/home/user/app"),
            ("x/~", None, "/home/user/x/~"),
            ("ü", None, "/home/user/ü"),
        ] {
            let resolved = resolve(path, &user("/home/user"), workdir);
            assert_eq!(resolved, Ok(PathBuf::from(expect)), "{path:?} {workdir:?}");
        }
    }

    #[test]
    fn another_users_home_and_nul_are_refused() {
        let user = user("/home/user");
        assert_eq!(resolve("~root/x", &user, None), Err(Invalid::OtherHome("~root/x".into())));
        assert_eq!(resolve("/a\0b", &user, None), Err(Invalid::Nul));
    }

    proptest! {
        #[test]
        fn a_clean_path_is_itself_wherever_it_is_said(
            parts in prop::collection::vec("[^/\0~.][^/\0]{0,6}", 1..5),
            home in "/[a-z]{1,5}",
        ) {
            let (path, user) = (parts.join("/"), user(&home));
            let below_home = Path::new(&home).join(&path);
            prop_assert_eq!(resolve(&format!("/{path}"), &user, None), Ok(Path::new("/").join(&path)));
            prop_assert_eq!(resolve(&path, &user, Some("/elsewhere")), Ok(below_home.clone()));
            prop_assert_eq!(resolve(&format!("~/{path}"), &user, None), Ok(below_home));
        }

        #[test]
        fn only_dots_lead_out_of_the_home(path in "[a-c/.~]{0,16}") {
            let dots = path.split('/').any(|part| part == "..");
            if let Ok(resolved) = resolve(&path, &user("/home/user"), None)
                && !dots && !path.starts_with('/')
            {
                prop_assert!(resolved.starts_with("/home/user"), "{resolved:?}");
            }
        }

        #[test]
        fn whatever_comes_out_is_absolute_and_clean(
            path in "[~/.a\\PC\0]{0,24}",
            home in "[/.a]{0,8}",
            workdir in proptest::option::of("[~/.a]{0,8}"),
        ) {
            if let Ok(resolved) = resolve(&path, &user(&home), workdir.as_deref()) {
                prop_assert!(resolved.is_absolute());
                prop_assert_eq!(clean(&resolved), resolved.clone());
                prop_assert!(!resolved.components().any(|part| part == Component::ParentDir));
            }
        }
    }
}
