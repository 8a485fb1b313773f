package watch

import (
	"context"
	"os"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
)

// Ask asks an instance for a sample.
type Ask func(context.Context) (Sample, error)

// Lines hands a report to each after every interval, count times, or without an end if that is 0,
// until ctx ends or each or ask fails.
func Lines(ctx context.Context, ask Ask, interval time.Duration, count int, each func(Report) error) error {
	var h History
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 0; count == 0 || n < count; {
		s, err := ask(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if r, ok := h.Add(s); ok {
			if err := each(r); err != nil {
				return err
			}
			if n++; n == count {
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// Run shows reports on a terminal until the user quits or ctx ends. An instance that does not
// answer is asked again.
func Run(ctx context.Context, ask Ask, interval time.Duration, out *os.File, colors bool) error {
	m := model{ask: func() (Sample, error) { return ask(ctx) }, interval: interval, view: View{Width: minWidth, Height: 24, Colors: colors}}
	_, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithOutput(out), tea.WithoutSignalHandler()).Run()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// model is the state of the screen, in the manner of bubbletea: each message makes the next one.
type model struct {
	ask      func() (Sample, error)
	interval time.Duration
	history  *History
	report   *Report // nil: there is none yet
	view     View
}

// answered is a sample, or why there is none.
type answered struct {
	sample Sample
	err    error
}

// due says that it is time to ask again.
type due struct{}

func (m model) Init() tea.Cmd { return m.question() }

// question asks without keeping the screen waiting. Only one is under way.
func (m model) question() tea.Cmd {
	return func() tea.Msg {
		s, err := m.ask()
		return answered{s, err}
	}
}

func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.view.Width, m.view.Height = msg.Width, msg.Height
	case due:
		return m, m.question()
	case answered:
		m.take(msg)
		return m, tea.Tick(m.interval, func(time.Time) tea.Msg { return due{} })
	case tea.KeyPressMsg:
		return m.press(msg.String())
	}
	return m, nil
}

// take takes an answer over. While it is paused, it counts but does not show.
func (m *model) take(a answered) {
	m.view.Failure = ""
	if a.err != nil {
		m.view.Failure = a.err.Error()
		return
	}
	if m.history == nil {
		m.history = new(History)
	}
	if r, ok := m.history.Add(a.sample); ok && (!m.view.Paused || m.report == nil) {
		m.report = &r
	}
}

func (m model) press(key string) (tea.Model, tea.Cmd) {
	last := 0
	if m.report != nil {
		last = max(0, len(m.report.Peers)-1)
	}
	switch key {
	case "q", "ctrl+c", "esc":
		return m, tea.Quit
	case "ctrl+z":
		return m, tea.Suspend
	case "s":
		m.view.Sort = (m.view.Sort + 1) % orders
		m.view.First = 0
	case "p", "space":
		m.view.Paused = !m.view.Paused
	case "d":
		m.view.HideDrops = !m.view.HideDrops
	case "up", "k":
		m.view.First--
	case "down", "j":
		m.view.First++
	case "pgup":
		m.view.First -= m.view.Height / 2
	case "pgdown":
		m.view.First += m.view.Height / 2
	}
	m.view.First = min(max(0, m.view.First), last)
	return m, nil
}

func (m model) View() tea.View {
	lines := []string{"gvtep: waiting for the first two answers"}
	switch {
	case m.report != nil:
		lines = m.view.Screen(m.report)
	case m.view.Failure != "":
		lines = []string{"gvtep: no answer: " + m.view.Failure, "q quit"}
	}
	v := tea.NewView(strings.Join(lines, "\n"))
	v.AltScreen = true
	return v
}
