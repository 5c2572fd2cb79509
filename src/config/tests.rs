use super::*;

fn places() -> Places {
    Places::of(true, 0, |_| None, || None)
}

fn parse(text: &str) -> Result<Config> {
    Config::parse(Some(Path::new("/etc/vapor/vapor.conf")), text.as_bytes(), &places())
}

fn problems(text: &str) -> Vec<String> {
    let error = parse(text).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    error.message().lines().map(str::to_owned).collect()
}

/// `(section, key, value)` of each key in the example.
fn example() -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in include_str!("../../vapor.conf.example").lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((key, value)) = line.strip_prefix('#').and_then(|l| l.split_once(" = "))
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            keys.push((section.clone(), key.to_owned(), value.to_owned()));
        }
    }
    keys
}

#[test]
fn the_example_documents_every_key_and_no_other() {
    let mut reader = file::Reader::new(None, "");
    check::build(&mut reader, &places());
    let known: Vec<_> =
        reader.known().iter().map(|(s, k)| ((*s).to_owned(), (*k).to_owned())).collect();
    let documented: Vec<_> = example().into_iter().map(|(s, k, _)| (s, k)).collect();
    assert_eq!(documented, known);
}

#[test]
fn the_examples_values_are_the_defaults() {
    // These two have no default: their value shows what one would write.
    let shown_only = ["socket_group", "port"];
    let mut text = String::new();
    let mut last = String::new();
    for (section, key, value) in example() {
        if section != last {
            text.push_str(&format!("[{section}]\n"));
            last = section;
        }
        if !shown_only.contains(&key.as_str()) {
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    let defaults = Config::parse(None, b"", &places()).unwrap();
    assert_eq!(Config { source: None, ..parse(&text).unwrap() }, defaults);
    for (section, key, value) in example() {
        assert!(parse(&format!("[{section}]\n{key} = {value}\n")).is_ok(), "{key}");
    }
}

#[test]
fn an_unknown_key_is_shown_with_its_line_and_the_nearest_known_one() {
    let text =
        "[server]\n\n# a comment\nsokcet = \"/x\"\n[log]\nport = 1\n[databse]\npath = \"/x\"\n";
    assert_eq!(
        problems(text),
        [
            "/etc/vapor/vapor.conf:4: unknown key \"sokcet\" in [server]; the nearest known key is \"socket\"",
            "/etc/vapor/vapor.conf:6: unknown key \"port\" in [log]; it belongs in [server]",
            "/etc/vapor/vapor.conf:7: unknown section [databse]; the nearest known one is [database]",
        ]
    );
    assert_eq!(
        problems("uri = \"test:///default\"\n"),
        [
            "/etc/vapor/vapor.conf:1: the key \"uri\" stands before any [section]; the nearest known key is \"uri\" in [libvirt]"
        ]
    );
}

#[test]
fn a_section_that_is_none_is_refused() {
    for text in ["server = 1\n", "[[server]]\nport = 1\n"] {
        let expected = "/etc/vapor/vapor.conf:1: server must be a section: write [server]";
        assert_eq!(problems(text), [expected]);
    }
}

#[test]
fn what_is_no_toml_is_shown_with_its_line() {
    for (text, line) in [
        ("[server]\nport = \n", 2),
        ("[server\n", 1),
        ("[server]\nport = 1\nport = 2\n", 3),
        ("[log]\nlevel = \"info\n", 2),
    ] {
        let problems = problems(text);
        let start = format!("/etc/vapor/vapor.conf:{line}: ");
        assert!(problems[0].starts_with(&start), "{text:?} gave {problems:?}");
    }
    let error = Config::parse(Some(Path::new("/c")), b"[log]\n\xff", &places()).unwrap_err();
    assert_eq!(error.message(), "/c:2: not UTF-8");
}

#[test]
fn values_that_cannot_be_used_are_refused_with_what_would_be_right() {
    for (text, expected) in [
        ("[server]\nport = 0", "port in [server] must be a whole number from 1 to 65535"),
        ("[server]\nport = 65536", "port in [server] must be a whole number from 1 to 65535"),
        ("[server]\nport = \"80\"", "port in [server] must be a whole number from 1 to 65535"),
        ("[server]\nport = -1", "port in [server] must be a whole number from 1 to 65535"),
        ("[server]\nport = 99999999999999999999999999999999999999999", "port in [server] must be"),
        ("[server]\nhost = \"0.0.0.0\"", "host in [server] must be a loopback address"),
        ("[server]\nhost = \"::\"", "host in [server] must be a loopback address"),
        ("[server]\nhost = \"example.org\"", "host in [server] must be a loopback address"),
        ("[server]\nsocket = \"vapor.sock\"", "socket in [server] must be an absolute path"),
        ("[server]\nsocket = \"/a\\u0000b\"", "socket in [server] holds a control character"),
        ("[server]\nsocket_mode = \"0999\"", "socket_mode in [server] must be permission bits"),
        ("[server]\nsocket_mode = \"0060\"", "socket_mode in [server] must be permission bits"),
        ("[server]\nsocket_mode = 0o660", "socket_mode in [server] must be a text in quotes"),
        ("[libvirt]\nenabled = \"yes\"", "enabled in [libvirt] must be true or false"),
        ("[libvirt]\ndomain_type = \"xen\"", "domain_type in [libvirt] must be one of \"auto\", "),
        ("[libvirt]\nuri = \"\"", "uri in [libvirt] is empty"),
        ("[log]\nlevel = \"inof\"", "level in [log] must be a level (off, error, "),
        ("[log]\nlevel = \"info,vapor=loud\"", "level in [log] must be a level"),
        ("[log]\nlevel = \"=debug\"", "level in [log] has no target"),
        ("[log]\nformat = 7", "format in [log] must be a text in quotes, not integer"),
    ] {
        let problems = problems(text);
        let start = format!("/etc/vapor/vapor.conf:2: {expected}");
        assert!(problems[0].starts_with(&start), "{text:?} gave {problems:?}");
        assert_eq!(problems.len(), 1, "{problems:?}");
    }
    let long = format!("[server]\nsocket = \"/{}\"", "x".repeat(107));
    assert!(problems(&long)[0].contains("is longer than"));
}

#[test]
fn all_problems_are_shown_at_once_in_the_order_of_the_lines() {
    let text = "[log]\nlevel = 1\nfromat = \"text\"\n[server]\nport = 0\n";
    let lines: Vec<_> = problems(text)
        .iter()
        .map(|problem| problem.split(':').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(lines, ["2", "3", "5"]);
}

#[test]
fn values_arrive_where_they_belong() {
    let text = "[server]\nhost = \"::1\"\nport = 8_006\nsocket_mode = \"600\"\n\
                [libvirt]\nuri = \"test:///default\"\ndomain_type = \"qemu\"\n\
                [database]\nsynchronous = \"normal\"\n[limits]\nbody_bytes = 0x1000\n";
    let config = parse(text).unwrap();
    assert_eq!(config.server.tcp(), Some("[::1]:8006".parse().unwrap()));
    assert_eq!(config.server.socket_mode, 0o600);
    assert_eq!(config.libvirt.uri, "test:///default");
    assert_eq!(config.libvirt.domain_type.as_str(), Some("qemu"));
    assert_eq!(config.database.synchronous, Synchronous::Normal);
    assert_eq!(config.limits.body_bytes, 4096);
    assert_eq!(config.source.as_deref(), Some(Path::new("/etc/vapor/vapor.conf")));
}

#[test]
fn root_has_the_systems_places_and_others_the_xdg_folders() {
    let root = places();
    assert_eq!(root.socket, Path::new("/run/vapor/vapor.sock"));
    assert_eq!(root.database, Path::new("/var/lib/vapor/vapor.db"));
    assert_eq!(root.uri, "qemu:///system");
    let variables = |name: &str| match name {
        "HOME" => Some(OsString::from("/home/ann")),
        "XDG_RUNTIME_DIR" => Some(OsString::from("/run/user/1000")),
        "XDG_STATE_HOME" => Some(OsString::from("relative")),
        _ => None,
    };
    let ann = Places::of(false, 1000, variables, || None);
    assert_eq!(ann.config, Path::new("/home/ann/.config/vapor/vapor.conf"));
    assert_eq!(ann.socket, Path::new("/run/user/1000/vapor/vapor.sock"));
    assert_eq!(ann.database, Path::new("/home/ann/.local/state/vapor/vapor.db"));
    assert_eq!(ann.uri, "qemu:///session");
    let bare = Places::of(false, 1000, |_| None, || Some(PathBuf::from("/home/bob")));
    assert_eq!(bare.socket, Path::new("/home/bob/.local/state/vapor/vapor.sock"));
}

#[test]
fn what_a_running_daemon_cannot_take_over_is_named() {
    let running = parse("").unwrap();
    let text = "[limits]\nbody_bytes = 2048\n[log]\nlevel = \"debug\"\n";
    assert_eq!(running.fixed_differences(&parse(text).unwrap()), [""; 0]);
    let text = "[server]\nport = 1\n[database]\nreaders = 2\n[libvirt]\nenabled = false\n[log]\n\
                format = \"json\"\n";
    assert_eq!(
        running.fixed_differences(&parse(text).unwrap()),
        ["[server]", "[database]", "[libvirt]", "format in [log]"]
    );
}

#[test]
fn a_named_file_must_be_there() {
    let error = Config::load(Some(Path::new("/nonexistent/vapor.conf"))).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.message().contains("/nonexistent/vapor.conf"), "{error}");
}
