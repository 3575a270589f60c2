package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/build"
	"github.com/lastack/lastack/image/deb"
	"github.com/lastack/lastack/image/lock"
)

func imageCommand() *cli.Command {
	return &cli.Command{
		Name:  "image",
		Usage: "make, check and write disk images that boot into the appliance",
		Description: "An image is a whole disk: boot loader, kernel, modules and this binary, in two\n" +
			"slots of which one is tried after an update, and room for configuration.",
		Subcommands: []*cli.Command{imageBuildCommand(), imageVerifyCommand(), imageFlashCommand(), imageLockCommand()},
		Action:      noCommand,
	}
}

func lockFlag() cli.Flag {
	return &cli.StringFlag{Name: "lock", Usage: "take the Debian packages that `FILE` names (default: the list in this binary)", TakesFile: true}
}

func cacheFlag() cli.Flag {
	return &cli.StringFlag{Name: "cache", Usage: "keep Debian packages in `DIR` (default: lastack in the user's cache directory)", EnvVars: []string{"LASTACK_PACKAGES"}, TakesFile: true}
}

func mirrorFlag() cli.Flag {
	return &cli.StringFlag{Name: "mirror", Usage: "fetch Debian packages from `URL`", Value: deb.DefaultMirror}
}

func imageBuildCommand() *cli.Command {
	return &cli.Command{
		Name:  "build",
		Usage: "make a disk image",
		Description: "It needs no root. The kernel and the boot loader are Debian's, by the versions\n" +
			"and SHA-256 sums of a lock file; they are fetched by apt-get (on Debian or\n" +
			"Ubuntu) unless the cache has them. The same binary and lock file give the same\n" +
			"bytes.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "arch", Usage: "for `ARCH`, amd64 or arm64 (default: this machine's)"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write the image to `FILE` (default: lastack-ARCH.img)", TakesFile: true},
			&cli.StringFlag{Name: "binary", Usage: "put in `FILE`, an appliance for ARCH (default: this one)", TakesFile: true},
			&cli.StringFlag{Name: "release", Usage: "call it `VERSION` (default: this binary's)"},
			&cli.Uint64Flag{Name: "build-number", Usage: "`N` rises with each release: a box takes no lower one unless told to", Value: 1},
			&cli.StringFlag{Name: "config", Usage: "start with the configuration in `FILE` where there is no other", TakesFile: true},
			&cli.StringSliceFlag{Name: "update-key", Usage: "take updates signed by the minisign public key in `FILE`", TakesFile: true},
			&cli.BoolFlag{Name: "both-slots", Usage: "fill slot B too"},
			&cli.BoolFlag{Name: "uncompressed", Usage: "leave out FILE.zst, which takes the most time"},
			&cli.StringFlag{Name: "slot-dir", Usage: "leave the kernel and the initramfs in `DIR`, for an update bundle", TakesFile: true},
			lockFlag(), cacheFlag(), mirrorFlag(), jsonFlag(),
		},
		Action: imageBuildAction,
	}
}

func imageBuildAction(c *cli.Context) error {
	o, err := buildOptions(c)
	if err != nil {
		return err
	}
	report, err := build.Build(c.Context, o)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c, report)
	}
	return report.Print(c.App.Writer)
}

func buildOptions(c *cli.Context) (o build.Options, err error) {
	o = build.Options{Version: c.String("release"), Build: c.Uint64("build-number"), Binary: c.String("binary"), BothSlots: c.Bool("both-slots"),
		Out: c.String("output"), Uncompressed: c.Bool("uncompressed"), SlotDir: c.String("slot-dir"), Log: c.App.ErrWriter}
	if o.Created, err = sourceDate(); err != nil {
		return o, err
	}
	if o.Arch, err = archOf(c); err != nil {
		return o, err
	}
	if o.Version == "" {
		o.Version = version
	}
	if o.Out == "" {
		o.Out = "lastack-" + string(o.Arch) + ".img"
	}
	if o.Binary == "" {
		if o.Binary, err = os.Executable(); err != nil {
			return o, err
		}
	}
	o.Config = image.DefaultConfig()
	if name := c.String("config"); name != "" {
		if o.Config, err = os.ReadFile(name); err != nil {
			return o, err
		}
	}
	for _, name := range c.StringSlice("update-key") {
		data, err := os.ReadFile(name)
		if err != nil {
			return o, err
		}
		o.Keys = append(o.Keys, build.Key{Name: filepath.Base(name), Data: data})
	}
	if o.Lock, err = lockOf(c); err != nil {
		return o, err
	}
	o.Store, err = storeOf(c)
	return o, err
}

// sourceDate is the time that a reproducible build is said to be of
// (https://reproducible-builds.org/specs/source-date-epoch/).
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(0, 0), nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, usageErr{fmt.Errorf("SOURCE_DATE_EPOCH is %q, want seconds since 1970", text)}
	}
	return time.Unix(n, 0), nil
}

func lockOf(c *cli.Context) (*lock.File, error) {
	name := c.String("lock")
	if name == "" {
		return lock.Default()
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return lock.Parse(data)
}

func storeOf(c *cli.Context) (*deb.Store, error) {
	dir := c.String("cache")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil, usageErr{fmt.Errorf("where packages may be kept is not known, name a directory by --cache: %w", err)}
		}
		dir = filepath.Join(user, "lastack")
	}
	return &deb.Store{Dir: dir, Mirror: c.String("mirror"), Log: c.App.ErrWriter}, os.MkdirAll(dir, 0o755)
}

func imageLockCommand() *cli.Command {
	return &cli.Command{
		Name:  "lock",
		Usage: "show or renew the list of Debian packages that images are made of",
		Description: "Debian keeps only the newest version of a package. When one of the list is gone\n" +
			"from the mirrors, or a security update is out, renew the list:\n\n" +
			"   appliance image lock --update --lock image/lock/packages.lock\n\n" +
			"and build and test again: what boots is then another kernel.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "update", Usage: "look up what Debian offers now, and write it to the file of --lock"},
			&cli.StringFlag{Name: "suite", Usage: "take the Debian release `NAME` (default: that of the list)"},
			lockFlag(), cacheFlag(), mirrorFlag(),
		},
		Action: imageLockAction,
	}
}

func imageLockAction(c *cli.Context) error {
	f, err := lockOf(c)
	if err != nil {
		return err
	}
	if !c.Bool("update") {
		return printLock(c, f)
	}
	name := c.String("lock")
	if name == "" {
		return usageErr{errors.New("name the file to write by --lock; in the source tree it is image/lock/packages.lock")}
	}
	if s := c.String("suite"); s != "" {
		f.Suite = s
	}
	store, err := storeOf(c)
	if err != nil {
		return err
	}
	renewed, err := store.Renew(c.Context, f.Suite)
	if err != nil {
		return err
	}
	out, err := renewed.Marshal()
	if err != nil {
		return err
	}
	if err := os.WriteFile(name, out, 0o644); err != nil {
		return err
	}
	return printLock(c, renewed)
}

func printLock(c *cli.Context, f *lock.File) error {
	fmt.Fprintf(c.App.Writer, "Debian %s\n", f.Suite)
	for _, p := range f.Packages {
		fmt.Fprintf(c.App.Writer, "%s  %s\n", p.SHA256, p.FileName())
	}
	return nil
}

// archOf is the architecture of a command's image.
func archOf(c *cli.Context) (image.Arch, error) {
	name := c.String("arch")
	if name == "" {
		name = runtime.GOARCH
	}
	a, err := image.ParseArch(name)
	if err != nil {
		return "", usageErr{err}
	}
	return a, nil
}
