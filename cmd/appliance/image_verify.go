package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/image/flash"
	"github.com/lastack/lastack/image/inspect"
)

func imageVerifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "look whether an image or a disk is whole, and tell what is on it",
		ArgsUsage: "FILE|DISK",
		Description: "Both partition tables, the file system of the boot partition down to each\n" +
			"cluster, and of each boot entry the kernel and the initramfs are read; nothing\n" +
			"is written. Where it came from this can't tell: compare with the sums that were\n" +
			"published beside it (sha256sum -c).",
		Flags:  []cli.Flag{jsonFlag()},
		Action: imageVerifyAction,
	}
}

func imageVerifyAction(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageErr{errors.New("name one image or disk")}
	}
	name := c.Args().First()
	f, err := plainImage(name)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	s, err := inspect.Look(f)
	if err != nil {
		return fmt.Errorf("%s is damaged, or no image of ours: %w", name, err)
	}
	if c.Bool("json") {
		return writeJSON(c, s)
	}
	return printSummary(c.App.Writer, name, s)
}

// plainImage opens an image uncompressed, if need be as a temporary file that
// is gone when it is closed.
func plainImage(name string) (*os.File, error) {
	in, err := flash.Open(name)
	if err != nil {
		return nil, err
	}
	if plain, ok := in.(*os.File); ok {
		return plain, nil
	}
	defer in.Close() // only read
	tmp, err := os.CreateTemp("", "lastack-image-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(tmp.Name()); err != nil {
		return nil, errors.Join(err, tmp.Close())
	}
	if err := flash.CopySparse(tmp, in); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", name, err), tmp.Close())
	}
	return tmp, nil
}

func printSummary(w io.Writer, name string, s *inspect.Summary) error {
	fmt.Fprintf(w, "%s is whole: an image for %s\n", name, s.Arch)
	for _, p := range s.Partitions {
		fmt.Fprintf(w, "partition %-4s %5d MiB\n", p.Name, p.Size>>20)
	}
	for _, e := range s.Entries {
		fmt.Fprintf(w, "entry %s: %s\n", e.File, e.Title)
		fmt.Fprintf(w, "  %s, kernel %s, %s\n", e.Release, e.Release.Kernel, count(e.Modules, "module"))
		fmt.Fprintf(w, "  %s  %s\n  %s  %s\n", e.Kernel.SHA256, e.Kernel.Path, e.Initrd.SHA256, e.Initrd.Path)
	}
	for _, p := range s.Provision {
		fmt.Fprintf(w, "for the first boot: %s\n", p)
	}
	_, err := fmt.Fprintf(w, "%d MiB are free for updates\n", s.Free>>20)
	return err
}
