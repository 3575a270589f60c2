package disk

import (
	"errors"
	"fmt"
	"io"
	"path"
)

// node is a file or directory met on a walk.
type node struct {
	dirent
	Path   string
	Chain  []uint32
	Parent uint32 // cluster of the directory it is in
}

// maxDepth is more than any volume of ours has.
const maxDepth = 8

// walk visits every entry of a volume but volume labels; "." and ".." too.
// Each cluster may belong to one file only.
func (v *volume) walk(visit func(node) error) (used int, err error) {
	chain, err := v.chain(v.root)
	if err != nil {
		return 0, fmt.Errorf("the root directory: %w", err)
	}
	owner := map[uint32]string{}
	if err := claim(owner, chain, "/"); err != nil {
		return 0, err
	}
	err = v.walkDir("/", v.root, chain, owner, visit)
	return len(owner), err
}

func claim(owner map[uint32]string, chain []uint32, name string) error {
	for _, c := range chain {
		if other, taken := owner[c]; taken {
			return fmt.Errorf("%s and %s share cluster %d", other, name, c)
		}
		owner[c] = name
	}
	return nil
}

func (v *volume) walkDir(dir string, self uint32, chain []uint32, owner map[uint32]string, visit func(node) error) error {
	list, err := v.list(chain)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	for _, d := range list {
		n := node{dirent: d, Path: path.Join(dir, d.Name), Parent: self}
		if d.Short == "." || d.Short == ".." {
			n.Path = dir + "/" + d.Short
		}
		if err := v.walkEntry(n, owner, visit); err != nil {
			return err
		}
	}
	return nil
}

func (v *volume) walkEntry(n node, owner map[uint32]string, visit func(node) error) (err error) {
	dot := n.Short == "." || n.Short == ".."
	if !dot && n.Attr&attrVolume == 0 && n.Cluster != 0 {
		if n.Chain, err = v.chain(n.Cluster); err != nil {
			return fmt.Errorf("%s: %w", n.Path, err)
		}
		if err := claim(owner, n.Chain, n.Path); err != nil {
			return err
		}
	}
	if err := visit(n); err != nil {
		return fmt.Errorf("%s: %w", n.Path, err)
	}
	if dot || !n.isDir() {
		return nil
	}
	if n.Cluster == 0 {
		return fmt.Errorf("%s: a directory without a cluster", n.Path)
	}
	if depth(n.Path) > maxDepth {
		return fmt.Errorf("%s: directories are too deep", n.Path)
	}
	return v.walkDir(n.Path, n.Cluster, n.Chain, owner, visit)
}

func depth(p string) (n int) {
	for ; p != "/"; p = path.Dir(p) {
		n++
	}
	return n
}

// read is a file's content.
func (v *volume) read(n node) ([]byte, error) {
	if n.Size > int64(len(n.Chain))*v.cluster {
		return nil, errors.New("it is longer than its clusters")
	}
	out := make([]byte, n.Size)
	for i, c := range n.Chain {
		at := int64(i) * v.cluster
		if at >= n.Size {
			break
		}
		if _, err := v.r.ReadAt(out[at:min(at+v.cluster, n.Size)], v.offset(c)); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	return out, nil
}
