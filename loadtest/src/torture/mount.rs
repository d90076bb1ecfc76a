//! File systems of a run's own: small ones that fill up, and ones whose power can be cut.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Trouble;
use super::gateway::tool;

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even its own journal is written out.
const SHUT_DOWN: &str = r#"open(F, "<", $ARGV[0]) or die "open: $!\n"; my $how = pack("L", 2);
    ioctl(F, 0x8004587d, $how) or die "ioctl: $!\n""#;
const UNMOUNTS_MAX: usize = 50;

/// A file system at a data directory's place, taken away when dropped.
pub(super) struct Mount {
    at: PathBuf,
    /// The file an ext4 lies in.
    image: Option<PathBuf>,
}

impl Mount {
    pub(super) async fn tmpfs(at: PathBuf, mib: u64) -> Result<Self, Trouble> {
        std::fs::create_dir_all(&at).map_err(Trouble::io("the mount point"))?;
        let size = format!("size={mib}m");
        tool(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", &at.to_string_lossy()]).await?;
        Ok(Self { at, image: None })
    }

    /// An ext4 in a file of `dir`, at `dir/store`.
    pub(super) async fn ext4(dir: &Path, mib: u64) -> Result<Self, Trouble> {
        let (at, image) = (dir.join("store"), dir.join("store.ext4"));
        std::fs::create_dir_all(&at).map_err(Trouble::io("the mount point"))?;
        let file = std::fs::File::create(&image).and_then(|file| file.set_len(mib << 20));
        file.map_err(Trouble::io("the image of a file system"))?;
        tool(&["mkfs.ext4", "-q", "-F", &image.to_string_lossy()]).await?;
        let mount = Self { at, image: Some(image) };
        mount.attach().await?;
        Ok(mount)
    }

    async fn attach(&self) -> Result<(), Trouble> {
        let Some(image) = &self.image else { return Ok(()) };
        let (image, at) = (image.to_string_lossy(), self.at.to_string_lossy());
        tool(&["mount", "-o", "loop", &image, &at]).await.map(drop)
    }

    /// Nothing gets to the disk any more, as if its power had failed.
    pub(super) async fn shut_down(&self) -> Result<(), Trouble> {
        tool(&["perl", "-e", SHUT_DOWN, &self.at.to_string_lossy()]).await.map(drop)
    }

    /// Mounts what the power cut left; nobody may have a file open.
    pub(super) async fn again(&self) -> Result<(), Trouble> {
        let at = self.at.to_string_lossy();
        let mut left = UNMOUNTS_MAX;
        while let Err(error) = tool(&["umount", &at]).await {
            left -= 1;
            if left == 0 {
                return Err(Trouble::Setup(error.to_string()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.attach().await.map_err(|error| Trouble::Setup(error.to_string()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may still have files open.
        std::process::Command::new("umount").arg("-l").arg(&self.at).status().ok();
    }
}
