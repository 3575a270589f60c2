// Package handover is the line between a process and the one that takes its
// place: messages with open files, over a socket that the child inherits.
package handover

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Line is one end. It is used by one goroutine at a time.
type Line struct{ c *net.UnixConn }

// Bounds of a message: what a process of ours sends is far below.
const (
	headMost  = 1 << 10
	bodyMost  = 4 << 30
	filesMost = 250 // SCM_MAX_FD is 253
)

// head goes before a body.
type head struct {
	Kind  string `json:"kind"`
	Size  int64  `json:"size"`
	Files int    `json:"files"`
}

// refusal is the kind of a message that says why the other end goes no further.
const refusal = "refusal"

// RefusedError is what the other end has said.
type RefusedError struct{ Why string }

// Error is the other end's sentence.
func (e *RefusedError) Error() string { return e.Why }

// Pair makes a line; theirs is for the child's exec.Cmd.ExtraFiles.
func Pair() (ours *Line, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a line to the new process: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "hand-over")
	ours, err = Join(os.NewFile(uintptr(fds[0]), "hand-over"))
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

// Join takes the end that a process has inherited, and closes the file.
func Join(f *os.File) (*Line, error) {
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("take the line to the other process: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("the line to the other process is no unix socket"), c.Close())
	}
	return &Line{u}, nil
}

// Close ends the line.
func (l *Line) Close() error { return l.c.Close() }

// Within bounds all that follows until the next call.
func (l *Line) Within(d time.Duration) error { return l.c.SetDeadline(time.Now().Add(d)) }

// Send sends a message with its files, which stay open here.
func (l *Line) Send(kind string, body []byte, files ...*os.File) error {
	if len(files) > filesMost {
		return fmt.Errorf("hand over %s: %d files are more than the %d that fit", kind, len(files), filesMost)
	}
	b, err := json.Marshal(head{kind, int64(len(body)), len(files)})
	if err != nil {
		return err
	}
	oob, err := toRights(files)
	if err != nil {
		return fmt.Errorf("hand over %s: %w", kind, err)
	}
	if _, _, err = l.c.WriteMsgUnix(binary.BigEndian.AppendUint32(nil, uint32(len(b))), oob, nil); err == nil {
		_, err = l.c.Write(b)
	}
	if err == nil {
		_, err = l.c.Write(body)
	}
	switch {
	case errors.Is(err, unix.EPIPE), errors.Is(err, unix.ECONNRESET):
		return fmt.Errorf("hand over %s: %w", kind, errEnded)
	case err != nil:
		return fmt.Errorf("hand over %s: %w", kind, err)
	}
	return nil
}

var errEnded = errors.New("the other process has ended")

// SendJSON sends a message whose body is v.
func (l *Line) SendJSON(kind string, v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("hand over %s: %w", kind, err)
	}
	return l.Send(kind, b, files...)
}

// Refuse tells the other end why this one goes no further.
func (l *Line) Refuse(why error) error { return l.Send(refusal, []byte(why.Error())) }

// Receive takes the next message, which must be of the given kind. A refusal
// comes as a *RefusedError. The caller closes the files.
func (l *Line) Receive(kind string) (body []byte, files []*os.File, err error) {
	h, files, err := l.head()
	if err == nil && h.Kind != kind && h.Kind != refusal {
		err = fmt.Errorf("%q came in its place", h.Kind)
	}
	if err == nil && h.Files != len(files) {
		err = fmt.Errorf("%d of %d files came", len(files), h.Files)
	}
	if err == nil {
		body = make([]byte, h.Size)
		_, err = io.ReadFull(l.c, body)
	}
	if err == nil && h.Kind == refusal {
		err = &RefusedError{string(body)}
	}
	if err == nil {
		return body, files, nil
	}
	CloseAll(files)
	var refused *RefusedError
	if errors.As(err, &refused) {
		return nil, nil, err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) {
		err = errEnded
	}
	return nil, nil, fmt.Errorf("waiting for %s: %w", kind, err)
}

// ReceiveJSON is Receive into v, of a message without files.
func (l *Line) ReceiveJSON(kind string, v any) error {
	body, files, err := l.Receive(kind)
	if err != nil {
		return err
	}
	CloseAll(files)
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("waiting for %s: %w", kind, err)
	}
	return nil
}

func (l *Line) head() (h head, files []*os.File, err error) {
	var size [4]byte
	oob := make([]byte, unix.CmsgSpace(4*filesMost))
	n, oobn, _, _, err := l.c.ReadMsgUnix(size[:], oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return h, nil, err
	}
	if files, err = rights(oob[:oobn]); err != nil {
		return h, files, err
	}
	if _, err := io.ReadFull(l.c, size[n:]); err != nil {
		return h, files, err
	}
	length := binary.BigEndian.Uint32(size[:])
	if length > headMost {
		return h, files, errors.New("this is no message")
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(l.c, b); err != nil {
		return h, files, err
	}
	if err := json.Unmarshal(b, &h); err != nil {
		return h, files, err
	}
	if h.Size < 0 || h.Size > bodyMost {
		return h, files, fmt.Errorf("a message of %d bytes", h.Size)
	}
	return h, files, nil
}

// toRights is what files are sent as. File.Fd would make them block, for
// everyone who has them open.
func toRights(files []*os.File) ([]byte, error) {
	if len(files) == 0 {
		return nil, nil
	}
	fds := make([]int, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return nil, err
		}
	}
	return unix.UnixRights(fds...), nil
}

// rights are the files that came with a message.
func rights(oob []byte) (files []*os.File, err error) {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range all {
		fds, err := unix.ParseUnixRights(&all[i])
		if err != nil {
			continue // not files
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}

// CloseAll closes files that nobody will use; nothing was written to them.
func CloseAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
