package lifecycle

import (
	"bytes"
	"fmt"
	"math"
	"strings"
)

const (
	width, height = 860, 770
	boxH          = 44
)

// boxWidth fits the name and the bound.
func boxWidth(s State) int { return max(140, 6*len(s.Limit)+16) }

// SVG is the chart as a picture that needs nothing else.
func SVG() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">
<title>The states of a TCP connection and the bounds of a policy</title>
<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="#456"/></marker></defs>
<rect width="100%%" height="100%%" fill="white"/>
`, width, height)
	at := make(map[string]State)
	for _, s := range States() {
		at[s.Name] = s
	}
	for _, a := range Arrows() {
		drawArrow(&b, a, at[a.From], at[a.To])
	}
	for _, s := range States() {
		drawState(&b, s)
	}
	fmt.Fprintf(&b, `<text x="20" y="%d" fill="#a33">red: the keys of a policy that bound a state, with their defaults; when one is reached we send RST</text>
</svg>
`, height-14)
	return b.Bytes()
}

func drawState(b *bytes.Buffer, s State) {
	fill, down := "#eef3f8", -3
	if s.Limit == "" {
		fill, down = "#f6f6f6", 4
	}
	w := boxWidth(s)
	fmt.Fprintf(b, `<rect x="%d" y="%d" width="%d" height="%d" rx="6" fill="%s" stroke="#456"/>
<text x="%d" y="%d" text-anchor="middle" font-weight="bold">%s</text>
`, s.X-w/2, s.Y-boxH/2, w, boxH, fill, s.X, s.Y+down, strings.TrimSpace(s.Name))
	if s.Limit != "" {
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle" font-size="11" fill="#a33">%s</text>
`, s.X, s.Y+14, s.Limit)
	}
}

func drawArrow(b *bytes.Buffer, a Arrow, from, to State) {
	if from.Name == to.Name {
		x, y := from.X-boxWidth(from)/2, from.Y
		fmt.Fprintf(b, `<path d="M%d %dC%d %d %d %d %d %d" fill="none" stroke="#456" marker-end="url(#tip)"/>
`, x, y-8, x-50, y-30, x-50, y+30, x, y+8)
		drawLabel(b, from.X+a.DX, from.Y+a.DY, a.Label)
		return
	}
	x1, y1 := edge(from, to)
	x2, y2 := edge(to, from)
	fmt.Fprintf(b, `<path d="M%d %dL%d %d" stroke="#456" marker-end="url(#tip)"/>
`, x1, y1, x2, y2)
	drawLabel(b, (x1+x2)/2+a.DX, (y1+y2)/2+a.DY, a.Label)
}

func drawLabel(b *bytes.Buffer, x, y int, text string) {
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle" fill="#234" stroke="white" stroke-width="3" paint-order="stroke">%s</text>
`, x, y, text)
}

// edge is where the straight way from one box to another leaves it.
func edge(from, to State) (x, y int) {
	dx, dy := float64(to.X-from.X), float64(to.Y-from.Y)
	scale := math.Inf(1)
	if dx != 0 {
		scale = min(scale, float64(boxWidth(from))/2/math.Abs(dx))
	}
	if dy != 0 {
		scale = min(scale, boxH/2/math.Abs(dy))
	}
	return from.X + int(dx*scale), from.Y + int(dy*scale)
}

// Text is the chart for a terminal: each state, its bound, and the ways out.
func Text() string {
	var b strings.Builder
	seen := make(map[string]bool)
	for _, s := range States() {
		name := strings.TrimSpace(s.Name)
		if seen[name] {
			continue
		}
		seen[name] = true
		fmt.Fprint(&b, name)
		if s.Limit != "" {
			fmt.Fprintf(&b, "   [%s]", s.Limit)
		}
		fmt.Fprintln(&b)
		for _, a := range Arrows() {
			if a.From == s.Name {
				fmt.Fprintf(&b, "    %-28s -> %s\n", a.Label, strings.TrimSpace(a.To))
			}
		}
	}
	return b.String()
}
