package main

import (
	"os"
	"regexp"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
)

// Loads the alerts as Prometheus does, expressions and templates included, and looks whether each leads to a section of a page.
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
