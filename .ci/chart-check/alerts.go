package main

import (
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// Loads the alerts as Prometheus does, expressions and templates included, and looks whether each keeps pools apart and leads to
// a section of a page.
func checkAlerts(path string) int {
	groups, problems := rulefmt.ParseFile(path, false, model.UTF8Validation)
	for _, problem := range problems {
		fail("%v", problem)
	}
	if groups == nil {
		return 0
	}
	count := 0
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			count++
			for _, problem := range mixedPools(rule.Expr) {
				fail("%s: %s: %s", path, rule.Alert, problem)
			}
			if !strings.Contains(rule.Annotations["summary"], "$labels.pool") {
				fail("%s: %s: the summary does not say of which pool", path, rule.Alert)
			}
			page, section, _ := strings.Cut(rule.Annotations["runbook"], "#")
			// Which one the labels say, only Prometheus knows.
			if strings.Contains(section, "{{") {
				section = ""
			}
			if problem := missingSection(page, section); problem != "" {
				fail("%s: %s: runbook: %s", path, rule.Alert, problem)
			}
		}
	}
	if count == 0 {
		fail("%s: no alerts", path)
	}
	return count
}

// Where an expression makes one of series of several pools, or holds those of one against those of another.
func mixedPools(text string) []string {
	expression, err := parser.ParseExpr(text)
	if err != nil {
		return nil // rulefmt said so.
	}
	var problems []string
	want := func(what string, labels []string) {
		for _, label := range []string{"namespace", "pool"} {
			if !slices.Contains(labels, label) {
				problems = append(problems, what+" lacks "+label)
			}
		}
	}
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.AggregateExpr:
			if !node.Without {
				want("by (…)", node.Grouping)
			}
		case *parser.BinaryExpr:
			if matching := node.VectorMatching; matching != nil && matching.On {
				want("on (…)", matching.MatchingLabels)
			}
		}
		return nil
	})
	return problems
}

var notInAnchors = regexp.MustCompile(`[^a-z0-9 -]`)

func missingSection(page, section string) string {
	text, err := os.ReadFile(page)
	if err != nil {
		return err.Error()
	}
	for _, line := range strings.Split(string(text), "\n") {
		heading := notInAnchors.ReplaceAllString(strings.ToLower(strings.TrimLeft(line, "# ")), "")
		if strings.HasPrefix(line, "#") && (section == "" || strings.ReplaceAll(heading, " ", "-") == section) {
			return ""
		}
	}
	return page + " has no section " + section
}
