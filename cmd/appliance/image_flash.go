package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/image"
	"github.com/lastack/lastack/image/disk"
	"github.com/lastack/lastack/image/flash"
)

func imageFlashCommand() *cli.Command {
	return &cli.Command{
		Name:      "flash",
		Usage:     "write an image to a disk, a USB stick or a card, and read it back",
		ArgsUsage: "IMAGE",
		Description: "Without --to the disks of this machine are listed. A disk that is mounted, or\n" +
			"that this system runs from, is refused. You are asked to type the disk's name;\n" +
			"all that is on it will be lost.\n\n" +
			"A configuration and SSH keys may come along: the box takes them at its first\n" +
			"start.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "write to `DISK`, as /dev/sdb, or to a file", TakesFile: true},
			&cli.StringFlag{Name: "name", Usage: "don't ask: `NAME` is that of the disk, as sdb"},
			&cli.StringFlag{Name: "config", Usage: "give the box the configuration in `FILE`", TakesFile: true},
			&cli.StringFlag{Name: "authorized-keys", Usage: "let in over SSH who has one of the keys in `FILE`", TakesFile: true},
			jsonFlag(),
		},
		Action: imageFlashAction,
	}
}

func imageFlashAction(c *cli.Context) error {
	host := flash.ThisHost()
	if !c.IsSet("to") {
		return listDisks(c, host)
	}
	if c.NArg() != 1 {
		return usageErr{errors.New("name one image to write")}
	}
	job := flash.Job{Image: c.Args().First(), To: c.String("to")}
	var err error
	if job.Add, err = provisionDisk(c); err != nil {
		return err
	}
	if _, err := os.Stat(job.Image); err != nil {
		return err
	}
	if err := mayWrite(c, host, job.To); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	progress := &stages{w: c.App.ErrWriter}
	job.Progress = progress.show
	err = job.Run(ctx)
	progress.end()
	if err != nil {
		return fmt.Errorf("flash %s: %w", job.To, err)
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s holds the image, read back and compared\n", job.To)
	return err
}

// provisionDisk are the user's files for the first boot; a configuration that the
// box would refuse is refused here.
func provisionDisk(c *cli.Context) ([]disk.File, error) {
	var files []disk.File
	for _, f := range []struct{ flag, path string }{{"config", image.ProvisionConfig}, {"authorized-keys", image.ProvisionKeys}} {
		name := c.String(f.flag)
		if name == "" {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if f.path == image.ProvisionConfig {
			if _, err := config.Parse(name, data); err != nil {
				return nil, explainLoad(c, err)
			}
		}
		files = append(files, disk.File{Path: f.path, Data: data})
	}
	return files, nil
}

func listDisks(c *cli.Context, host flash.Host) error {
	disks, err := host.Disks()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return writeJSON(c, disks)
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DISK\tSIZE\tMODEL\t")
	for _, d := range disks {
		note := d.Refused
		if note != "" {
			note = "not to be written: " + note
		} else if d.Removable {
			note = "removable"
		}
		fmt.Fprintf(t, "%s\t%.1f GB\t%s\t%s\n", d.Path, float64(d.Size)/1e9, d.Model, note)
	}
	return t.Flush()
}

// mayWrite asks the person, by the name of what will be lost. A new file needs
// no word.
func mayWrite(c *cli.Context, host flash.Host, to string) error {
	info, err := os.Stat(to)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().IsRegular():
		return confirm(c, filepath.Base(to), fmt.Sprintf("the file %s", to))
	}
	d, err := host.Find(to)
	if err != nil {
		return err
	}
	if d.Refused != "" {
		return fmt.Errorf("%s is not written to: %s", d.Path, d.Refused)
	}
	return confirm(c, d.Name, fmt.Sprintf("%s, %.1f GB, %s", d.Path, float64(d.Size)/1e9, d.Model))
}

func confirm(c *cli.Context, name, what string) error {
	if c.IsSet("name") {
		if c.String("name") != name {
			return usageErr{fmt.Errorf("--name says %q, but this would write to %s, whose name is %s", c.String("name"), what, name)}
		}
		return nil
	}
	fmt.Fprintf(c.App.ErrWriter, "All that is on %s will be lost.\nType its name, %s, to go on: ", strings.TrimRight(what, " ,"), name)
	line, err := bufio.NewReader(c.App.Reader).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != name {
		return errors.New("that is not its name: nothing was written")
	}
	return nil
}

// stages shows a bar for each stage of a job.
type stages struct {
	w io.Writer
	*bar
}

func (s *stages) show(stage string, done, total int64) {
	if s.bar == nil || s.what != stage {
		s.end()
		s.bar = newBar(s.w, stage, total)
	}
	s.add(done - s.done)
}

func (s *stages) end() {
	if s.bar != nil {
		s.bar.end()
	}
}
