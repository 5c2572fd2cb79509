//! Operating systems as libosinfo's database describes them, where it is installed, and what is on
//! an installation medium by its header.
//!
//! The database is a tree of small XML files, which are read when somebody first asks and forgotten
//! some minutes later: a daemon that nobody asks keeps none of it, and a newer database is seen
//! without a restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use regex::bytes::RegexBuilder;

use super::page::{self, Page, PageQuery, stable_hash};
use crate::error::{Error, Kind, Result};
use crate::model::{IsoHeader, IsoOs, OsVariant, ReleaseStatus};
use crate::xml::os_variant::{Collection, MediaPattern};

/// How long the database is kept after it was read.
const KEEP: Duration = Duration::from_secs(300);

/// How many systems are named in the place of one that is not known.
const NEAREST: usize = 3;

/// No file of the database is nearly as large.
const MAX_FILE: u64 = 4 << 20;

/// The most that one pattern may become once it is compiled, bytes.
const MAX_PATTERN: usize = 1 << 20;

/// Which systems, and which part of the list.
#[derive(Clone, Debug, Default)]
pub struct OsVariantQuery {
    /// `name` is matched with the short id and the name.
    pub page: PageQuery,
    pub family: Option<String>,
    pub distro: Option<String>,
    pub architecture: Option<String>,
    pub release_status: Option<ReleaseStatus>,
}

/// One page of systems.
#[derive(Debug)]
pub struct OsVariantPage {
    pub page: Page<OsVariant>,
    /// The database's version.
    pub database: Option<String>,
    /// What to do if there is no database.
    pub hint: Option<String>,
}

/// Answers from libosinfo's database; cheap to clone.
#[derive(Clone)]
pub struct OsVariantService {
    inner: Arc<Inner>,
}

struct Inner {
    /// Later ones win over earlier ones.
    roots: Vec<PathBuf>,
    known: Mutex<Option<Arc<Database>>>,
    /// Held while the database is read, so that it is read once.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Database {
    variants: Vec<Arc<OsVariant>>,
    media: Vec<MediaPattern>,
    version: Option<String>,
}

impl OsVariantService {
    /// The database at its usual places: the distribution's, or `$OSINFO_SYSTEM_DIR`, then the
    /// administrator's own, or `$OSINFO_LOCAL_DIR`.
    pub fn standard() -> Self {
        let from = |variable: &str, usual: &[&str]| match std::env::var_os(variable) {
            Some(folder) if !folder.is_empty() => vec![PathBuf::from(folder)],
            _ => usual.iter().map(PathBuf::from).collect(),
        };
        let mut roots =
            from("OSINFO_SYSTEM_DIR", &["/usr/share/osinfo", "/usr/local/share/osinfo"]);
        roots.extend(from("OSINFO_LOCAL_DIR", &["/etc/osinfo"]));
        Self::at(roots)
    }

    /// The database in these folders; a file in a later one replaces its namesake in an earlier one.
    pub fn at(roots: Vec<PathBuf>) -> Self {
        let reading = tokio::sync::Mutex::default();
        OsVariantService { inner: Arc::new(Inner { roots, known: Mutex::default(), reading }) }
    }

    /// Systems by short id. Without a database the list is empty and says what to install.
    ///
    /// # Errors
    /// 400 for a sort field or a cursor that cannot be understood.
    pub async fn list(&self, query: &OsVariantQuery) -> Result<OsVariantPage> {
        let sort = query.page.sort.as_deref().unwrap_or("short_id");
        let field = sort.strip_prefix('-').unwrap_or(sort);
        if !matches!(field, "short_id" | "name" | "release_date" | "eol_date") {
            return Err(Error::field(
                "sort",
                "is not one of short_id, name, release_date, eol_date",
            ));
        }
        let database = self.database().await?;
        let is =
            |wanted: &Option<String>, value: &Option<String>| wanted.is_none() || wanted == value;
        let items: Vec<Arc<OsVariant>> = database
            .variants
            .iter()
            .filter(|os| {
                is(&query.family, &os.family)
                    && is(&query.distro, &os.distro)
                    && query.release_status.is_none_or(|status| status == os.release_status)
                    && query
                        .architecture
                        .as_ref()
                        .is_none_or(|name| os.architectures.contains(name))
                    && query.page.name.as_ref().is_none_or(|name| {
                        page::matches_pattern(name, &os.short_id)
                            || page::matches_pattern(name, &os.name)
                    })
            })
            .cloned()
            .collect();
        let mut page = page::page_of(items, &query.page, sort, |os| {
            let key = match field {
                "name" => os.name.clone(),
                "release_date" => os.release_date.clone().unwrap_or_default(),
                "eol_date" => os.eol_date.clone().unwrap_or_default(),
                _ => os.short_id.clone(),
            };
            (key, os.id.clone())
        })?;
        let hint = database.variants.is_empty().then(|| {
            "libosinfo's database is not installed: install osinfo-db on the host".to_owned()
        });
        let all = format!("{}{:?}{hint:?}", page.etag, database.version);
        page.etag = format!("\"{:016x}\"", stable_hash(all.as_bytes()));
        Ok(OsVariantPage { page, database: database.version.clone(), hint })
    }

    /// The system on a medium with this header, if the database knows it.
    ///
    /// # Errors
    /// Only a defect of ours; a database that cannot be read knows nothing.
    pub async fn identify(&self, header: &IsoHeader) -> Result<Option<IsoOs>> {
        let database = self.database().await?;
        let header = header.clone();
        // Patterns are compiled one after the other and not kept: a second of one thread at most.
        tokio::task::spawn_blocking(move || identify(&database, &header))
            .await
            .map_err(Error::internal)
    }

    /// Whether the database has this short id; one that is not there knows everything.
    ///
    /// # Errors
    /// Only a defect of ours.
    pub async fn knows(&self, short_id: &str) -> Result<bool> {
        let database = self.database().await?;
        let mut all = database.variants.iter();
        Ok(database.variants.is_empty() || all.any(|os| os.short_id == short_id))
    }

    /// The system with this short id or id. Without a database nothing is known, and nothing refused.
    ///
    /// # Errors
    /// 422 with the nearest ones if the database does not have it.
    pub async fn resolve(&self, name: &str) -> Result<Option<Arc<OsVariant>>> {
        let database = self.database().await?;
        if database.variants.is_empty() {
            return Ok(None);
        }
        let found = database.variants.iter().find(|os| os.short_id == name || os.id == name);
        if let Some(os) = found {
            return Ok(Some(os.clone()));
        }
        let ids = || database.variants.iter().map(|os| os.short_id.as_str());
        let mut nearest: Vec<(usize, &str)> = ids().map(|id| (distance(id, name), id)).collect();
        nearest.sort_unstable();
        nearest.dedup();
        let nearest: Vec<&str> = nearest.into_iter().take(NEAREST).map(|(_, id)| id).collect();
        let problem = format!("libosinfo knows no system {name:?}");
        Err(Error::new(Kind::Impossible, format!("os.variant: {problem}"))
            .with_field("os.variant", problem)
            .with_hint(format!(
                "the nearest are {}; GET /api/v1/virtualization/os-variants lists all",
                nearest.join(", ")
            ))
            .with_detail("nearest", nearest))
    }

    async fn database(&self) -> Result<Arc<Database>> {
        let _turn = self.inner.reading.lock().await;
        if let Some(known) = self.inner.known().clone() {
            return Ok(known);
        }
        let roots = self.inner.roots.clone();
        let read = tokio::task::spawn_blocking(move || read(&roots));
        let database = Arc::new(read.await.map_err(Error::internal)?);
        // An absent database is looked for again each time, so that it is there once installed.
        if !database.variants.is_empty() {
            *self.inner.known() = Some(database.clone());
            tokio::spawn(forget(Arc::downgrade(&self.inner)));
        }
        Ok(database)
    }
}

/// How many letters have to be changed, put in or left out to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, wanted) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *wanted);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

impl Inner {
    fn known(&self) -> std::sync::MutexGuard<'_, Option<Arc<Database>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn forget(service: Weak<Inner>) {
    tokio::time::sleep(KEEP).await;
    if let Some(inner) = service.upgrade() {
        *inner.known() = None;
    }
    if let Err(error) = tokio::task::spawn_blocking(crate::libvirt::give_back_memory).await {
        tracing::warn!(%error, "memory could not be given back");
    }
}

/// Reads all files. One that cannot be understood is left out, so that one bad file of an
/// administrator's does not hide the rest.
fn read(roots: &[PathBuf]) -> Database {
    let mut files = BTreeMap::new();
    let mut version = None;
    for root in roots {
        for part in ["device", "os"] {
            gather(root, &root.join(part), 0, &mut files);
        }
        if let Ok(text) = std::fs::read_to_string(root.join("VERSION")) {
            version = Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        }
    }
    let mut collection = Collection::default();
    for path in files.values() {
        let read = std::fs::read_to_string(path)
            .map_err(|error| Error::internal(error.to_string()))
            .and_then(|text| collection.read(&text));
        if let Err(error) = read {
            tracing::warn!(file = %path.display(), error = ?error, "left out of the OS variants");
        }
    }
    let (variants, media) = collection.finish();
    Database { variants: variants.into_iter().map(Arc::new).collect(), media, version }
}

/// The XML files below a folder, by their path below the root.
fn gather(root: &Path, folder: &Path, depth: u8, files: &mut BTreeMap<PathBuf, PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Ok(about) = std::fs::metadata(&path) else { continue };
        if about.is_dir() && depth < 4 {
            gather(root, &path, depth + 1, files);
        } else if about.is_file()
            && about.len() <= MAX_FILE
            && path.extension().is_some_and(|extension| extension == "xml")
            && let Ok(below) = path.strip_prefix(root)
        {
            files.insert(below.to_owned(), path);
        }
    }
}

/// The system whose patterns all fit, the most telling first: one with more conditions, a longer
/// pattern, and one that is not libosinfo's stand-in for an unknown version.
fn identify(database: &Database, header: &IsoHeader) -> Option<IsoOs> {
    let fitting = database.media.iter().filter(|media| fits(media, header));
    let best = fitting.max_by_key(|media| {
        let texts =
            [&media.volume_id, &media.system_id, &media.publisher_id, &media.application_id];
        let conditions = texts.iter().filter(|text| text.is_some()).count()
            + usize::from(media.volume_size_bytes.is_some());
        let length = media.volume_id.as_ref().map_or(0, String::len);
        (!media.os.ends_with("/unknown") && !media.os.ends_with("/rolling"), length, conditions)
    })?;
    let os = database.variants.iter().find(|os| os.id == best.os)?;
    Some(IsoOs {
        id: os.id.clone(),
        short_id: os.short_id.clone(),
        name: os.name.clone(),
        architecture: best.architecture.clone(),
        live: best.live,
    })
}

fn fits(media: &MediaPattern, header: &IsoHeader) -> bool {
    let fields = [
        (&media.volume_id, &header.volume_id),
        (&media.system_id, &header.system_id),
        (&media.publisher_id, &header.publisher),
        (&media.application_id, &header.application),
    ];
    // A pattern that asks for nothing would fit everything.
    fields.iter().any(|(pattern, _)| pattern.is_some())
        && media.volume_size_bytes.is_none_or(|size| header.volume_size_bytes == Some(size))
        && fields.iter().all(|(pattern, text)| match (pattern, text) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(pattern), Some(text)) => found(pattern, text),
        })
}

/// The longest text that whatever the pattern fits must hold; empty if none can be told. Most
/// patterns are ruled out by it, and compiling them all would take seconds.
fn needed(pattern: &str) -> String {
    let (mut longest, mut run) = (String::new(), String::new());
    let mut rest = pattern.chars().peekable();
    let mut end = |run: &mut String| {
        if run.len() > longest.len() {
            longest.clone_from(run);
        }
        run.clear();
    };
    while let Some(c) = rest.next() {
        match c {
            '|' => return String::new(),
            '(' | '[' => {
                end(&mut run);
                // What is in brackets may be a choice.
                let (mut depth, mut class) = (0u32, false);
                let mut inside = Some(c);
                while let Some(c) = inside {
                    match c {
                        '\\' => drop(rest.next()),
                        '[' => class = true,
                        ']' => class = false,
                        '(' if !class => depth += 1,
                        ')' if !class => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    if depth == 0 && !class {
                        break;
                    }
                    inside = rest.next();
                }
            }
            // The character before it may be absent.
            '?' | '*' | '{' => {
                run.pop();
                end(&mut run);
                if c == '{' {
                    rest.by_ref().find(|c| *c == '}');
                }
            }
            // A repetition of a repetition may be none.
            '+' if rest.peek().is_some_and(|next| "?*{".contains(*next)) => {
                run.pop();
                end(&mut run);
            }
            '+' | '.' | '^' | '$' => end(&mut run),
            '\\' => match rest.next() {
                Some(escaped) if !escaped.is_ascii_alphanumeric() => run.push(escaped),
                _ => end(&mut run),
            },
            plain => run.push(plain),
        }
    }
    end(&mut run);
    longest
}

/// Whether the pattern is found in the text. One that cannot be compiled (the database's are made
/// for another engine, which knows look-around) is found nowhere.
fn found(pattern: &str, text: &str) -> bool {
    text.contains(&needed(pattern))
        && RegexBuilder::new(pattern)
            .unicode(false)
            .size_limit(MAX_PATTERN)
            .build()
            .is_ok_and(|regex| regex.is_match(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(volume_id: &str) -> IsoHeader {
        IsoHeader { volume_id: Some(volume_id.to_owned()), ..IsoHeader::default() }
    }

    fn file(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn os(number: u32, pattern: &str) -> String {
        format!(
            "<libosinfo><os id='http://x.org/x/{number}'><short-id>x{number}</short-id>
            <name>X {number}</name><family>linux</family><distro>x</distro>
            <release-date>20{number:02}-01-01</release-date>
            <media arch='x86_64'><iso><volume-id>{pattern}</volume-id></iso></media></os></libosinfo>"
        )
    }

    fn by_name(name: &str) -> OsVariantQuery {
        let page = PageQuery { name: Some(name.to_owned()), ..PageQuery::default() };
        OsVariantQuery { page, ..OsVariantQuery::default() }
    }

    async fn short_ids(service: &OsVariantService, query: &OsVariantQuery) -> Vec<String> {
        let found = service.list(query).await.unwrap();
        found.page.items.iter().map(|os| os.short_id.clone()).collect()
    }

    #[test]
    fn what_a_pattern_needs_is_told_where_it_can_be() {
        for (pattern, text) in [
            ("Debian 11.\\d+.\\d+ amd64 n", "Debian 11"),
            ("^(J_)?(CCSN?A|C?CCOMA)_X64FREE?_", "_X64FRE"),
            ("Fedora-WS-Live-36.*", "Fedora-WS-Live-36"),
            ("a|bcd", ""),
            ("x{0}yz", "yz"),
            ("[a-z\\]]q", "q"),
            ("a\\.b+c", "a.b"),
            ("(a(b|c))", ""),
            ("ab+*", "a"),
            ("ab+{0}c", "a"),
        ] {
            assert_eq!(needed(pattern), text, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_pattern_fits_holds_what_it_needs(
            pattern in "[ab.()|?*+\\[\\]^$\\\\d{}1]{0,10}", text in "[ab1.\\]d]{0,8}",
        ) {
            let regex = RegexBuilder::new(&pattern).unicode(false).build();
            if regex.is_ok_and(|regex| regex.is_match(text.as_bytes())) {
                prop_assert!(text.contains(&needed(&pattern)), "{:?}", needed(&pattern));
            }
        }
    }

    #[tokio::test]
    async fn without_a_database_the_list_is_empty_and_says_what_to_install() {
        let folder = tempfile::tempdir().unwrap();
        let service = OsVariantService::at(vec![folder.path().join("nowhere")]);
        let found = service.list(&OsVariantQuery::default()).await.unwrap();
        assert!(found.page.items.is_empty());
        assert!(found.hint.unwrap().contains("osinfo-db"));
        assert_eq!(service.identify(&header("X 1")).await.unwrap(), None);
        // Once it is installed it is seen.
        file(folder.path(), "nowhere/os/x.org/x-1.xml", &os(1, "X 1"));
        assert_eq!(short_ids(&service, &OsVariantQuery::default()).await, ["x1"]);
    }

    #[tokio::test]
    async fn the_administrators_files_win_and_a_bad_one_hides_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (system, local) = (folder.path().join("system"), folder.path().join("local"));
        file(&system, "VERSION", "20230101\n");
        file(&system, "os/x.org/x-1.xml", &os(1, "X 1"));
        file(&system, "os/x.org/x-2.xml", &os(2, "X 2"));
        file(&local, "os/x.org/x-1.xml", &os(1, "X 1").replace("X 1</name>", "Mine</name>"));
        file(&local, "os/x.org/bad.xml", "<libosinfo>");
        file(&local, "os/x.org/other.txt", "no XML");
        let service = OsVariantService::at(vec![system, local]);
        let found = service.list(&OsVariantQuery::default()).await.unwrap();
        assert_eq!(found.database.as_deref(), Some("20230101"));
        let names: Vec<_> = found.page.items.iter().map(|os| os.name.as_str()).collect();
        assert_eq!(names, ["Mine", "X 2"]);
        assert_eq!(short_ids(&service, &by_name("Mi*")).await, ["x1"]);
        assert_eq!(short_ids(&service, &by_name("x2")).await, ["x2"]);
        let other = OsVariantQuery { family: Some("winnt".into()), ..OsVariantQuery::default() };
        assert!(short_ids(&service, &other).await.is_empty());
        let page = PageQuery { sort: Some("-release_date".into()), ..PageQuery::default() };
        let newest = OsVariantQuery { page, ..OsVariantQuery::default() };
        assert_eq!(short_ids(&service, &newest).await, ["x2", "x1"]);
        let page = PageQuery { sort: Some("vendor".into()), ..PageQuery::default() };
        let wrong = OsVariantQuery { page, ..OsVariantQuery::default() };
        assert!(service.list(&wrong).await.is_err());
    }

    #[tokio::test]
    async fn a_system_is_found_by_either_of_its_names_and_a_typo_tells_the_nearest() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for number in [1, 2, 3, 40] {
            file(root, &format!("os/x.org/x-{number}.xml"), &os(number, "X"));
        }
        let service = OsVariantService::at(vec![root.to_owned()]);
        for name in ["x2", "http://x.org/x/2"] {
            assert_eq!(service.resolve(name).await.unwrap().unwrap().short_id, "x2");
        }
        let error = service.resolve("x4").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Impossible);
        assert_eq!(error.details()["fields"][0]["field"], "os.variant");
        assert_eq!(error.details()["nearest"], serde_json::json!(["x1", "x2", "x3"]));
        assert!(error.hint().contains("x1, x2, x3"), "{error:?}");
        let nowhere = OsVariantService::at(vec![root.join("nowhere")]);
        assert!(nowhere.resolve("x4").await.unwrap().is_none(), "nobody can tell");
    }

    #[tokio::test]
    async fn a_medium_is_recognised_by_the_most_telling_pattern() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        file(root, "os/x.org/x-1.xml", &os(1, "X"));
        file(root, "os/x.org/x-2.xml", &os(2, "^X \\d+ amd64"));
        file(root, "os/x.org/x-3.xml", &os(3, "X (?!7)"));
        let service = OsVariantService::at(vec![root.to_owned()]);
        let os = service.identify(&header("X 7 amd64 n")).await.unwrap().unwrap();
        assert_eq!((os.short_id.as_str(), os.architecture.as_str()), ("x2", "x86_64"));
        assert_eq!(service.identify(&header("X")).await.unwrap().unwrap().short_id, "x1");
        assert_eq!(service.identify(&header("Y")).await.unwrap(), None);
        assert_eq!(service.identify(&IsoHeader::default()).await.unwrap(), None);
    }
}
