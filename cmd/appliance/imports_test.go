package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/lastack/lastack/"

// allowed is who may import whom of ours. Data flows one way: cmd/appliance
// knows all, config is a leaf, and netif, stack and services never meet but
// there. To change it, change this table in its own commit.
var allowed = map[string][]string{
	"cmd/appliance": {"config", "netif", "stack", "stack/flow", "services", "services/admin", "services/diag", "services/proxy", "internal/demo",
		"internal/handover", "internal/history", "internal/wholefile", "internal/dhcp", "internal/console", "internal/sshd", "internal/provision", "internal/timesync", "config/predict", "internal/connfilter", "internal/journal", "internal/tcpinfo",
		"internal/boot", "image", "image/build", "image/bundle", "image/deb", "image/disk", "image/flash", "image/inspect", "image/lock", "image/vm"},
	"config":         {},
	"config/predict": {"config", "internal/tcpinfo"},
	"netif":          {"netif/frame", "internal/wholefile"},
	"netif/frame":    {},
	// The frame is what the two meet through; both stay free of each other.
	"stack":                 {"config", "netif/frame", "internal/tcpinfo", "stack/flow"},
	"stack/conformance":     {}, // nothing but tests
	"stack/stacktest":       {"stack"},
	"stack/flow":            {"config", "netif/frame", "internal/journal", "internal/tcpinfo"},
	"services":              {"config", "internal/tcpinfo"},
	"services/admin":        {"config", "services", "services/proxy", "internal/history"},
	"services/diag":         {"config", "services"},
	"services/proxy":        {"config", "services", "internal/tcpinfo"},
	"services/servicestest": {"services", "internal/tcpinfo"},
	"internal/tcpinfo":      {},
	"internal/golden":       {},
	"internal/journal":      {},
	"internal/wholefile":    {},
	"internal/connfilter":   {},
	"internal/lifecycle":    {},
	"internal/handover":     {},
	"internal/history":      {"internal/wholefile"},
	"internal/boot":         {"image/bundle", "image/slot", "internal/wholefile"},
	"internal/dhcp":         {},
	"internal/timesync":     {},
	"internal/console":      {},
	"internal/provision":    {"internal/history", "internal/wholefile"},
	"internal/sshd":         {"internal/console"},
	"internal/lab":          {},
	"internal/carrytest":    {"internal/lab"},
	"internal/lab/labtest":  {"internal/lab"},
	"internal/demo":         {"internal/lab", "services", "services/admin"},
	"bench":                 {"internal/lab"},
	"image":                 {},
	"image/build":           {"image", "image/bundle", "image/cpio", "image/deb", "image/disk", "image/kmod", "image/lock", "image/slot"},
	"image/bundle":          {},
	"image/cpio":            {},
	"image/deb":             {"image", "image/lock"},
	"image/disk":            {"image"},
	"image/flash":           {"image/disk", "image/inspect"},
	"image/guest":           {"image", "image/kmod"},
	"image/imagetest":       {"image", "image/bundle", "image/cpio", "image/disk", "image/slot"},
	"image/inspect":         {"image", "image/bundle", "image/cpio", "image/disk", "image/kmod"},
	"image/kmod":            {"image"},
	"image/lock":            {"image"},
	"image/vm":              {"image"},
	"image/slot":            {"image/bundle"},
}

// keeps is where the types of a dependency stay.
var keeps = map[string][]string{
	"gvisor.dev/gvisor":           {"netif", "stack", "stack/flow"},
	"github.com/vishvananda":      {"netif", "internal/lab", "internal/lab/labtest"},
	"github.com/urfave/cli":       {"cmd/appliance"},
	"github.com/lmittmann/tint":   {"cmd/appliance"},
	"golang.org/x/crypto":         {"config", "internal/sshd", "internal/console", "cmd/appliance"},
	"golang.org/x/term":           {"internal/console"},
	"go.yaml.in/yaml":             {"config"},
	"github.com/beevik/ntp":       {"internal/timesync"},
	"github.com/insomniacslk":     {"internal/dhcp", "internal/lab/labtest"},
	"go.uber.org/goleak":          {"internal/lab/labtest"},
	"testing":                     {"internal/lab/labtest", "internal/golden", "stack/stacktest"},
	"github.com/stretchr/testify": {},
}

type listed struct {
	ImportPath string
	Doc        string
	Imports    []string
}

func TestImportsFlowOneWay(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		ours, ok := allowed[name]
		if !ok {
			t.Errorf("package %s is not in the table: say what it may import", name)
		}
		if p.Doc == "" {
			t.Errorf("package %s has no package comment", name)
		}
		for _, i := range p.Imports {
			if own, is := strings.CutPrefix(i, module); is && !slices.Contains(ours, own) {
				t.Errorf("%s imports %s, which the table forbids", name, own)
			}
			for dep, homes := range keeps {
				if (i == dep || strings.HasPrefix(i, dep+"/")) && !slices.Contains(homes, name) {
					t.Errorf("%s imports %s, which belongs to %v", name, i, homes)
				}
			}
		}
	}
}

func listPackages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports", module+"...")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.String())
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list shows %d packages, want all of ours", len(all))
	}
	return all
}
