"""What is known about the use of a ranking: do layers that rank high make good starts for students?"""

TRANSPLANT_EVIDENCE = (
    "Whether a high rank predicts a good transplant is not decided: for the one teacher that learned to copy (the rule "
    "asks for two), induction_score and the accuracy of students have a rank correlation of ρ = .46 [.07, .84], "
    "p = .125."
)
"""The result of analyses/ranking in one sentence; help, report, dashboard and README.md show it."""
