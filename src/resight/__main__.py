from resight.cli import main

main()
