//! Checks of single fields, as their schema says, and of what fields say together.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::error::{Error, Kind, Result};
use crate::model::{CloudInit, CloudInterface, CloudUser, Command, Secret, WriteFile};

/// The fields found wrong so far, each with what is wrong.
#[derive(Default)]
struct Wrong(Option<Error>);

impl Wrong {
    fn add(&mut self, field: &str, problem: impl Into<String>) {
        let (field, problem) = (format!("cloud_init.{field}"), problem.into());
        self.0 = Some(match self.0.take() {
            None => Error::field(field, problem),
            Some(error) => error.with_field(field, problem),
        });
    }

    fn check(&mut self, field: &str, is_good: bool, problem: &str) {
        if !is_good {
            self.add(field, problem);
        }
    }

    fn most(&mut self, field: &str, count: usize, most: usize) {
        self.check(field, count <= most, &format!("has more than {most} entries"));
    }

    fn text(&mut self, field: &str, text: &str, most: usize, allowed: impl Fn(char) -> bool) {
        if text.chars().count() > most {
            self.add(field, format!("has more than {most} characters"));
        } else if text.is_empty() {
            self.add(field, "is empty");
        } else if text.chars().any(|c| !allowed(c)) {
            self.add(field, "holds a character that is not allowed there");
        }
    }

    fn document(&mut self, field: &str, document: Option<&Secret>, most: usize) {
        let long = document.is_some_and(|text| text.reveal().chars().count() > most);
        self.check(field, !long, &format!("has more than {most} characters"));
        let nul = document.is_some_and(|text| text.reveal().contains('\0'));
        self.check(field, !nul, "holds a NUL");
    }
}

/// 400 with every field that is wrong; 422 if fields contradict each other.
pub(super) fn fields(request: &CloudInit) -> Result<()> {
    let mut wrong = Wrong::default();
    wrong.document("user_data", request.user_data.as_ref(), 262_144);
    wrong.document("meta_data", request.meta_data.as_ref(), 65_536);
    wrong.document("network_config", request.network_config.as_ref(), 65_536);
    wrong.document("vendor_data", request.vendor_data.as_ref(), 262_144);
    if let Some(hostname) = &request.hostname {
        wrong.check("hostname", is_label(hostname), "is not a host name");
    }
    if let Some(fqdn) = &request.fqdn {
        let good = fqdn.len() <= 253 && fqdn.contains('.') && fqdn.split('.').all(is_label);
        wrong.check("fqdn", good, "is not a host name with a domain");
    }
    keys(&mut wrong, "ssh_keys", request.ssh_keys.iter().map(|key| key.0.as_str()));
    password(&mut wrong, "password", request.password.as_ref());
    wrong.most("users", request.users.len(), 32);
    for (place, entry) in request.users.iter().enumerate() {
        user(&mut wrong, &format!("users[{place}]"), entry);
    }
    wrong.most("packages", request.packages.len(), 256);
    for (place, package) in request.packages.iter().enumerate() {
        let field = format!("packages[{place}]");
        wrong.text(&field, &package.0, 256, |c| {
            c.is_ascii_alphanumeric() || "+.:~=_/@-".contains(c)
        });
        let begins = package.0.starts_with(|c: char| c.is_ascii_alphanumeric());
        wrong.check(&field, begins, "does not begin with a letter or a digit");
    }
    wrong.most("runcmd", request.runcmd.len(), 256);
    for (place, command) in request.runcmd.iter().enumerate() {
        let field = format!("runcmd[{place}]");
        match command {
            Command::Line(line) => wrong.text(&field, &line.0, 16_384, |c| c != '\0'),
            Command::Words(words) => {
                let words = &words.0;
                wrong.check(&field, !words.is_empty(), "is empty");
                wrong.most(&field, words.len(), 256);
                let nul = words.iter().any(|word| word.contains('\0'));
                wrong.check(&field, !nul, "holds a NUL");
            }
        }
    }
    wrong.most("write_files", request.write_files.len(), 64);
    for (place, entry) in request.write_files.iter().enumerate() {
        file(&mut wrong, &format!("write_files[{place}]"), entry);
    }
    for (field, text, more) in
        [("timezone", &request.timezone, "_+/-"), ("locale", &request.locale, "_.@-")]
    {
        let Some(text) = text else { continue };
        wrong.text(field, text, 64, |c| c.is_ascii_alphanumeric() || more.contains(c));
        let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
        wrong.check(field, begins, "does not begin with a letter");
    }
    if let Some(network) = &request.network {
        let count = network.interfaces.len();
        wrong.check("network.interfaces", count > 0, "is empty");
        wrong.most("network.interfaces", count, 16);
        for (place, entry) in network.interfaces.iter().enumerate() {
            interface(&mut wrong, &format!("network.interfaces[{place}]"), entry);
        }
    }
    wrong.0.map_or(Ok(()), Err)?;
    together(request)
}

fn is_label(label: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric();
    (1..=63).contains(&label.len())
        && label.chars().all(|c| word(c) || c == '-')
        && label.starts_with(word)
        && label.ends_with(word)
}

fn is_account(name: &str) -> bool {
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    (1..=32).contains(&name.len())
        && name.starts_with(first)
        && name.chars().all(|c| first(c) || c.is_ascii_digit() || c == '-')
}

fn is_plain(c: char) -> bool {
    !c.is_ascii_control()
}

fn keys<'a>(wrong: &mut Wrong, field: &str, keys: impl ExactSizeIterator<Item = &'a str>) {
    wrong.most(field, keys.len(), 64);
    for (place, key) in keys.enumerate() {
        wrong.text(&format!("{field}[{place}]"), key, 16_384, is_plain);
    }
}

fn password(wrong: &mut Wrong, field: &str, password: Option<&Secret>) {
    let Some(password) = password else { return };
    wrong.text(field, password.reveal(), 256, |_| true);
}

fn user(wrong: &mut Wrong, field: &str, user: &CloudUser) {
    let of = |name: &str| format!("{field}.{name}");
    wrong.check(&of("name"), is_account(&user.name), "is not the name of a user");
    wrong.most(&of("groups"), user.groups.len(), 64);
    let good = user.groups.iter().all(|group| is_account(&group.0));
    wrong.check(&of("groups"), good, "holds what is not the name of a group");
    if let Some(rule) = &user.sudo {
        wrong.text(&of("sudo"), rule, 1024, is_plain);
    }
    if let Some(shell) = &user.shell {
        wrong.text(&of("shell"), shell, 255, |c| c.is_ascii_alphanumeric() || "_./-".contains(c));
        wrong.check(&of("shell"), shell.starts_with('/'), "is not an absolute path");
    }
    keys(wrong, &of("ssh_keys"), user.ssh_keys.iter().map(|key| key.0.as_str()));
    password(wrong, &of("password"), user.password.as_ref());
    if let Some(hash) = &user.password_hash {
        wrong.check(&of("password_hash"), is_hash(hash.reveal()), "is not a hash of crypt(5)");
    }
}

/// `$id$…`, in the characters that hashes are made of.
fn is_hash(text: &str) -> bool {
    let Some((id, rest)) = text.strip_prefix('$').and_then(|text| text.split_once('$')) else {
        return false;
    };
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 512
        && !id.is_empty()
        && id.chars().all(lower)
        && !rest.is_empty()
        && rest.chars().all(|c| c.is_ascii_alphanumeric() || "./$=,+-".contains(c))
}

fn file(wrong: &mut Wrong, field: &str, file: &WriteFile) {
    let of = |name: &str| format!("{field}.{name}");
    wrong.text(&of("path"), &file.path, 4096, is_plain);
    let absolute = file.path.starts_with('/') && file.path.len() > 1;
    wrong.check(&of("path"), absolute, "is not an absolute path");
    wrong.document(&of("content"), Some(&file.content), 262_144);
    if let Some(mode) = &file.permissions {
        let octal = mode.chars().all(|c| ('0'..='7').contains(&c));
        let good = octal && (3..=4 + usize::from(mode.starts_with('0'))).contains(&mode.len());
        wrong.check(&of("permissions"), good, "is not a mode in octal");
    }
    if let Some(owner) = &file.owner {
        let (user, group) = owner.split_once(':').unwrap_or((owner, owner));
        wrong.check(
            &of("owner"),
            is_account(user) && is_account(group),
            "is not USER or USER:GROUP",
        );
    }
}

fn interface(wrong: &mut Wrong, field: &str, interface: &CloudInterface) {
    let of = |name: &str| format!("{field}.{name}");
    if let Some(name) = &interface.name {
        wrong.text(&of("name"), name, 15, |c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        wrong.check(&of("name"), begins, "is not the name of an interface");
    }
    if let Some(mac) = &interface.mac {
        let pair = |part: &str| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit());
        let good = mac.split(':').count() == 6 && mac.split(':').all(pair);
        wrong.check(&of("mac"), good, "is not six hexadecimal pairs with colons");
    }
    wrong.most(&of("addresses"), interface.addresses.len(), 32);
    wrong.most(&of("gateway"), interface.gateway.len(), 2);
    wrong.most(&of("dns"), interface.dns.len(), 8);
    wrong.most(&of("search"), interface.search.len(), 8);
    if let Some(mtu) = interface.mtu {
        wrong.check(&of("mtu"), (68..=65_535).contains(&mtu), "must be between 68 and 65535");
    }
}

/// 422: each field is as it should be, and together they make no sense.
fn together(request: &CloudInit) -> Result<()> {
    let mut clash: Option<Error> = None;
    let mut say = |field: String, problem: String| {
        let field = format!("cloud_init.{field}");
        clash = Some(match clash.take() {
            None => Error::new(Kind::Impossible, format!("{field}: {problem}"))
                .with_field(field, problem),
            Some(error) => error.with_field(field, problem),
        });
    };
    let built = [
        ("ssh_keys", !request.ssh_keys.is_empty()),
        ("password", request.password.is_some()),
        ("users", !request.users.is_empty()),
        ("packages", !request.packages.is_empty()),
        ("package_update", request.package_update.is_some()),
        ("runcmd", !request.runcmd.is_empty()),
        ("write_files", !request.write_files.is_empty()),
        ("timezone", request.timezone.is_some()),
        ("locale", request.locale.is_some()),
    ];
    let contradicts = |document: &str| format!("contradicts {document}: say one of them");
    for (field, _) in built.iter().filter(|(_, given)| request.user_data.is_some() && *given) {
        say((*field).to_owned(), contradicts("user_data"));
    }
    let names = [("hostname", request.hostname.is_some()), ("fqdn", request.fqdn.is_some())];
    for (field, _) in names.iter().filter(|(_, given)| request.meta_data.is_some() && *given) {
        say((*field).to_owned(), contradicts("meta_data"));
    }
    if request.network_config.is_some() && request.network.is_some() {
        say("network".to_owned(), contradicts("network_config"));
    }
    if let (Some(hostname), Some(fqdn)) = (&request.hostname, &request.fqdn)
        && fqdn.split('.').next() != Some(hostname)
    {
        say("fqdn".to_owned(), "does not begin with hostname".to_owned());
    }
    let mut accounts = HashSet::new();
    for (place, user) in request.users.iter().enumerate() {
        if user.password.is_some() && user.password_hash.is_some() {
            say(format!("users[{place}].password_hash"), contradicts("password"));
        }
        if !accounts.insert(user.name.as_str()) {
            say(format!("users[{place}].name"), "is that of another user".to_owned());
        }
        if user.name == "default" {
            say(
                format!("users[{place}].name"),
                "is cloud-init's word for the image's user".to_owned(),
            );
        }
    }
    let mut interfaces = HashSet::new();
    let network = request.network.iter().flat_map(|network| &network.interfaces);
    for (place, interface) in network.enumerate() {
        let of = |name: &str| format!("network.interfaces[{place}].{name}");
        if interface.name.is_none() && interface.mac.is_none() {
            say(of("mac"), "is required where there is no name".to_owned());
        }
        let name = interface.name.clone().unwrap_or_else(|| format!("eth{place}"));
        if !interfaces.insert(name) {
            say(of("name"), "is that of another interface".to_owned());
        }
        for (index, address) in interface.addresses.iter().enumerate() {
            if !is_network_address(address) {
                say(
                    format!("{}[{index}]", of("addresses")),
                    "is not an address with its prefix, such as 10.0.0.5/24".to_owned(),
                );
            }
        }
        for (field, list) in [("gateway", &interface.gateway), ("dns", &interface.dns)] {
            if list.iter().any(|address| address.parse::<IpAddr>().is_err()) {
                say(of(field), "holds what is not an IP address".to_owned());
            }
        }
        let domain = |name: &String| name.split('.').all(is_label) && name.len() <= 253;
        if !interface.search.iter().all(domain) {
            say(of("search"), "holds what is not a domain".to_owned());
        }
    }
    clash.map_or(Ok(()), Err)
}

fn is_network_address(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    prefix.parse::<u8>().is_ok_and(|prefix| prefix <= most)
}
