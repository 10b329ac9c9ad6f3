//! The audit in a file of its own, which can be rotated.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use tracing_subscriber::fmt::MakeWriter;

/// A file that lines are appended to, each in one write. Clones write to the same one.
#[derive(Clone, Debug)]
pub(super) struct AuditFile {
    path: PathBuf,
    file: Arc<RwLock<Arc<File>>>,
}

impl AuditFile {
    /// Opens it, and makes it if it is not there, for its owner and group alone.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(RwLock::new(Arc::new(append_to(path)?))),
        })
    }

    /// Opens the path anew, for after a rotation. If that fails, lines go on into the old file.
    pub(super) fn reopen(&self) {
        match append_to(&self.path) {
            Ok(file) => *self.file.write() = Arc::new(file),
            Err(error) => {
                let path = self.path.display();
                tracing::error!(%path, %error, "log.audit_file can't be opened anew");
            }
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).open(path)
}

impl<'w> MakeWriter<'w> for AuditFile {
    type Writer = Arc<File>;

    fn make_writer(&'w self) -> Self::Writer {
        self.file.read().clone()
    }
}
