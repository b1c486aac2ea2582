//! The command line as clap sees it: every command, its options and their help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Keeps one library of files, tags and collections identical on all your devices.
#[derive(Debug, Parser)]
#[command(name = "starling", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Where this device's key and library live [default: the platform's data directory]
    #[arg(long, global = true, env = "STARLING_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Print JSON: one document, or one line per item for streams
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print only what was asked for, no progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more (twice: even more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t = When::Auto, value_name = "WHEN")]
    pub(crate) color: When,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the peer of this device in the foreground
    Up(Up),
    /// Try it out: real peers in a temporary place, joined, edited, parted and compared
    Demo(Demo),
    /// Make a one-time ticket that lets another device join the library
    Invite {
        /// How long the ticket is good for
        #[arg(long, default_value = "10m", value_parser = duration, value_name = "DURATION")]
        expires: Duration,
    },
    /// Join the library of another device with its ticket
    Join {
        /// The ticket, or - to read it from standard input
        ticket: String,
        /// Take what is in the library of this device along
        #[arg(long)]
        merge: bool,
    },
    /// Index folders and keep watching them
    Add {
        /// The folders
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Look for changes in one indexed folder, or in all of this device
    Rescan {
        /// Its id, path or name
        location: Option<OsString>,
    },
    /// List the indexed folders of all devices
    Locations,
    /// Stop indexing a folder and take its entries out of the library; its files are left alone
    RemoveLocation {
        /// Its id, path or name
        location: OsString,
    },
    /// Search the names of files on all devices, present or not
    Find(Find),
    /// Show all that is known of one record
    Show {
        /// Its id, or the path of an indexed file
        id: OsString,
    },
    /// Make tags and put them on files
    #[command(subcommand)]
    Tag(TagCommand),
    /// Make collections and put files in them
    #[command(subcommand)]
    Collection(CollectionCommand),
    /// Write a note on a file
    Note {
        /// The file: its id or path
        id: OsString,
        /// The note; empty clears it
        text: String,
    },
    /// Mark a file as a favourite
    Favorite {
        /// The file: its id or path
        id: OsString,
        /// Take the mark away
        #[arg(long)]
        off: bool,
    },
    /// Rate a file
    Rate {
        /// The file: its id or path
        id: OsString,
        /// 0 to 5
        #[arg(value_parser = clap::value_parser!(u8).range(0..=5))]
        rating: u8,
    },
    /// Say whether all is well, and if not, why
    Status,
    /// List the connections to other devices
    Peers,
    /// List the devices of the library
    #[command(subcommand)]
    Devices(DevicesCommand),
    /// Wait until nothing is missing here or at the connected peers
    Wait(Wait),
    /// Print a hash of the library: equal on two devices if and only if they hold the same
    Digest,
    /// Print the whole library, one item a line
    Dump,
    /// Check that this device's database is sound, and that a connected device holds the same
    Verify {
        /// The device to compare with: its name or id
        #[arg(long, value_name = "DEVICE")]
        with: Option<String>,
    },
    /// Stop syncing until `resume`, also after a restart; reading and writing here go on
    Pause,
    /// Sync again
    Resume,
    /// List what lost against a concurrent edit, and bring it back
    #[command(subcommand)]
    Conflicts(ConflictsCommand),
    /// Print what happened
    Events {
        /// Only what came after this cursor
        #[arg(long, default_value_t = 0, value_name = "CURSOR")]
        since: u64,
        /// Go on printing as things happen
        #[arg(long)]
        follow: bool,
    },
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one per command into a folder
    Man {
        /// The folder
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// Options of `up`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Up {
    /// What to call this device
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where to listen; may be given several times [default: any port on all interfaces]
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) listen: Vec<String>,
    /// Where to serve the status page: an address like 127.0.0.1:8080, or off
    #[arg(long, default_value = "off", value_name = "ADDR|off")]
    pub(crate) http: String,
    /// Do not look for members on the local network
    #[arg(long)]
    pub(crate) no_mdns: bool,
    /// Join the library of another device before anything else
    #[arg(long, value_name = "TICKET")]
    pub(crate) join: Option<String>,
    /// Folders to index and watch
    pub(crate) paths: Vec<PathBuf>,
}

/// Options of `demo`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Demo {
    /// How many peers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    pub(crate) peers: u8,
    /// The folder to index
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
}

/// Options of `find`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Find {
    /// A part of the name, in upper or lower case
    pub(crate) query: Option<String>,
    /// With this tag, or one nested in it: its name or id
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// On this device: its name or id
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// In this collection: its name or id
    #[arg(long)]
    pub(crate) collection: Option<String>,
    /// Of this kind
    #[arg(long, value_enum)]
    pub(crate) kind: Option<Kind>,
    /// Only favourites
    #[arg(long)]
    pub(crate) favorite: bool,
    /// At most so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// What can be done with tags.
#[derive(Debug, Subcommand)]
pub(crate) enum TagCommand {
    /// Make a tag
    New {
        /// Its name
        name: String,
        /// What else to say of it
        #[command(flatten)]
        details: TagDetails,
    },
    /// List the tags
    Ls,
    /// Change a tag
    Edit {
        /// Its name or id
        tag: String,
        /// A new name
        #[arg(long)]
        name: Option<String>,
        /// What else to change
        #[command(flatten)]
        details: TagDetails,
    },
    /// Delete a tag
    Rm {
        /// Its name or id
        tag: String,
    },
    /// Bring a deleted tag back
    Restore {
        /// Its name or id
        tag: String,
    },
    /// Put a tag on files or folders
    Add(Tagging),
    /// Take a tag off files or folders
    Remove(Tagging),
    /// Put a tag inside another
    Nest {
        /// The outer tag: its name or id
        parent: String,
        /// The inner tag: its name or id
        child: String,
        /// Take it out again
        #[arg(long)]
        off: bool,
    },
}

/// What can be said of a tag besides its name.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TagDetails {
    // Not `color`: that says when to print in colours, for every command.
    /// A colour, as #rrggbb; empty clears it
    #[arg(long, value_name = "#RRGGBB")]
    pub(crate) tint: Option<String>,
    /// The group it belongs to; empty clears it
    #[arg(long)]
    pub(crate) namespace: Option<String>,
    /// The name of an icon; empty clears it
    #[arg(long)]
    pub(crate) icon: Option<String>,
    /// What it is for; empty clears it
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// Other names, comma-separated; empty clears them
    #[arg(long)]
    pub(crate) aliases: Option<String>,
    /// Whether it stays out of lists
    #[arg(long)]
    pub(crate) hidden: Option<bool>,
}

/// A tag and what to put it on.
#[derive(Clone, Debug, Args)]
pub(crate) struct Tagging {
    /// Its name or id
    pub(crate) tag: String,
    /// The files or folders: ids or paths
    #[arg(required = true)]
    pub(crate) targets: Vec<OsString>,
    /// Mean the content: every copy of it on any device
    #[arg(long)]
    pub(crate) content: bool,
}

/// What can be done with collections.
#[derive(Debug, Subcommand)]
pub(crate) enum CollectionCommand {
    /// Make a collection
    New {
        /// Its name
        name: String,
        /// What else to say of it
        #[command(flatten)]
        details: CollectionDetails,
    },
    /// List the collections
    Ls,
    /// Change a collection
    Edit {
        /// Its name or id
        collection: String,
        /// A new name
        #[arg(long)]
        name: Option<String>,
        /// What else to change
        #[command(flatten)]
        details: CollectionDetails,
    },
    /// Delete a collection; its files stay
    Rm {
        /// Its name or id
        collection: String,
    },
    /// Bring a deleted collection back
    Restore {
        /// Its name or id
        collection: String,
    },
    /// Put files in a collection, at its end
    Add {
        /// Its name or id
        collection: String,
        /// The files or folders: ids or paths
        #[arg(required = true)]
        targets: Vec<OsString>,
    },
    /// Take files out of a collection
    Remove {
        /// Its name or id
        collection: String,
        /// The files or folders: ids or paths
        #[arg(required = true)]
        targets: Vec<OsString>,
    },
}

/// What can be said of a collection besides its name.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct CollectionDetails {
    // Not `color`: that says when to print in colours, for every command.
    /// A colour, as #rrggbb; empty clears it
    #[arg(long, value_name = "#RRGGBB")]
    pub(crate) tint: Option<String>,
    /// What it is for; empty clears it
    #[arg(long)]
    pub(crate) description: Option<String>,
}

/// What can be done with devices.
#[derive(Debug, Subcommand)]
pub(crate) enum DevicesCommand {
    /// List them
    Ls,
    /// Give this device another name
    Rename {
        /// The name
        name: String,
    },
    /// Remove a device for good: it is cut off, and its key never comes back
    Remove {
        /// Its name or id
        device: String,
    },
}

/// Options of `wait`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Wait {
    /// Wait until nothing is missing here or at the connected peers
    #[arg(long, required = true)]
    pub(crate) converged: bool,
    /// And until so many peers are connected
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) peers: usize,
    /// For how long at most
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,
}

/// What can be done with conflicts.
#[derive(Debug, Subcommand)]
pub(crate) enum ConflictsCommand {
    /// List them
    Ls,
    /// Show one
    Show {
        /// Its id, as `conflicts ls` prints it
        id: String,
    },
    /// Make the value that lost the value again, on every device
    Restore {
        /// Its id, as `conflicts ls` prints it
        id: String,
    },
}

/// Reads a time span like `10m` or `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |_| format!("{text:?} is no time span: write it like 30s, 10m or 1h");
    let span: jiff::SignedDuration = text.parse().map_err(|e: jiff::Error| wrong(e.to_string()))?;
    Duration::try_from(span).map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn time_spans_are_read_and_nonsense_is_explained() {
        assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "ten", "10", "-5s"] {
            assert!(duration(wrong).unwrap_err().contains("write it like"), "{wrong:?}");
        }
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let cli = Cli::try_parse_from(["starling", "tag", "add", "red", "/a", "--content", "--json"]).unwrap();
        assert!(cli.global.json);
        let Command::Tag(TagCommand::Add(tagging)) = cli.command else { panic!("another command") };
        assert_eq!((tagging.content, tagging.targets), (true, vec!["/a".into()]));
    }

    #[test]
    fn every_option_of_a_command_can_be_used_beside_the_global_ones() {
        let line = ["starling", "--color", "never", "tag", "new", "red", "--tint", "#ff0000"];
        let cli = Cli::try_parse_from(line).unwrap();
        let Command::Tag(TagCommand::New { details, .. }) = cli.command else { panic!("another command") };
        assert_eq!((cli.global.color, details.tint.as_deref()), (When::Never, Some("#ff0000")));
        for command in Cli::command().get_subcommands().flat_map(|command| command.get_subcommands().chain([command])) {
            let global = Cli::command().get_arguments().map(|arg| arg.get_id().clone()).collect::<Vec<_>>();
            let clash = command.get_arguments().find(|arg| global.contains(arg.get_id()));
            assert!(clash.is_none(), "{} redefines {clash:?}", command.get_name());
        }
    }

    #[test]
    fn wait_asks_for_what_to_wait() {
        assert!(Cli::try_parse_from(["starling", "wait"]).is_err());
        assert!(Cli::try_parse_from(["starling", "wait", "--converged", "--peers", "2"]).is_ok());
        assert!(Cli::try_parse_from(["starling", "rate", "x", "6"]).is_err());
    }
}
